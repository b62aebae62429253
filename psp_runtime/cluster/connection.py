"""The way to a Ray cluster: one started here, one this machine belongs to, or one far away through Ray Client."""

import contextlib
import logging
import os
import re
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from psp_runtime.cluster.storage import import_extra
from psp_runtime.console import LOCAL_RAY
from psp_runtime.errors import PspError
from psp_runtime.prefetch import cores

#: Seconds a machine may take to answer.
PATIENCE = 5.0
#: What Ray reads from the environment, where that does not say otherwise.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nobody asked whether Ray may call home
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its own warnings are about Ray Data, not about a run
    # Where somebody answers who is no Ray, or wants another token, it would go on asking for half a minute.
    "RAY_NUM_REDIS_GET_RETRIES": "8",
    "RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S": "3",
    "RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S": "3",
}


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Ray, started here or found at the address, until the end of the block; one that is connected already stays.

    Raises `PspError` where there is none, or one that does not take us.
    """
    if address != LOCAL_RAY:
        _show_token()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    ray = import_extra("ray")
    with contextlib.redirect_stdout(sys.stderr):  # where Ray prints its news
        if ray.is_initialized():
            yield
            return
        if address != LOCAL_RAY:
            _check_reachable(address)
        _connect(address)
        try:
            yield
        except ray.exceptions.RayActorError as error:
            raise PspError(
                f"the Ray at {address} lost its workers ({_reason(error)}): run again to go on; if they never start, "
                "the cluster may take no tokens while this machine has one, then set RAY_AUTH_MODE=disabled"
            ) from error
        finally:
            ray.shutdown()


def _connect(address: str) -> None:
    ray = import_extra("ray")
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    here = {"num_cpus": cores(), "include_dashboard": False} if address == LOCAL_RAY else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error says the same
            ray.init(address, **here, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, ray.exceptions.RayError) as error:
        ray.shutdown()
        raise PspError(
            f"cannot use the Ray at {address} ({_reason(error)}): it needs the same Ray and Python as here, and its "
            "token in RAY_AUTH_TOKEN or ~/.ray/auth_token if it has one"
        ) from None


def _reason(error: Exception) -> str:
    """Shorten what Ray says to one line."""
    return " ".join(str(error).split())[:300]


def _check_reachable(address: str) -> None:
    host, _, port = re.sub("^ray://|/.*$", "", address).rpartition(":")
    if not port.isdigit():  # "auto" looks it up, and knows at once
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise PspError(
            f"no Ray at {address} ({error}): start one with `ray start --head`, or use --ray alone"
        ) from None


def _show_token() -> None:
    """`ray start` asks for a token where its user has one, but Ray does not show it to a cluster unless told to."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if named or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
