"""Where `psp-serve` and `psp-ui` listen: whether they can, and who reaches them there."""

import ipaddress
import os
import socket
import warnings

from psp_runtime.errors import PspError


def check_address(host: str, port: int) -> None:
    """Raise `PspError` where nothing can listen. Warn where others than this machine can come in."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.create_server(address[:2], family=family):
            pass
    except OSError as error:
        raise cannot_listen(host, port, error) from None
    except UnicodeError:  # of what can be no name at all, such as a..b
        raise PspError(f"--host {host}: expected an address or the name of this machine, such as 127.0.0.1") from None
    if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        warnings.warn(f"--host {host}: everyone who reaches this machine can use it, without a password", stacklevel=2)


def cannot_listen(host: str, port: int, error: OSError) -> PspError:
    """The error to raise where an address cannot be listened on."""
    # asyncio and getaddrinfo have words of their own, and numbers that are none of the system's.
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
    return PspError(f"cannot listen on {host} port {port}: {reason}; choose another --port or --host")
