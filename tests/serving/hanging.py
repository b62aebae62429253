"""A worker of psp-serve whose engine hangs while the file HANG is there, and is not waited for long."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psp_runtime.serving import batching, models, server

SECONDS = 1.0


def load(options: server.Options, shared: server.Shared) -> Callable[..., Any]:
    run = models.run_batches

    def run_batches(*given: Any) -> Any:
        while Path(os.environ["HANG"]).exists():
            time.sleep(0.1)
        return run(*given)

    models.run_batches = run_batches
    batching.Batcher.hung = SECONDS
    return _load(options, shared)


_load = server.load
