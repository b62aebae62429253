"""A worker of psp-serve whose engine hangs while the file HANG is there, and is not waited for long."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psp_runtime.serving import batching, models, server

SECONDS = 1.0


def load(*given: Any) -> Callable[..., Any]:
    run = models.run_batches

    def run_batches(*inputs: Any) -> Any:
        while Path(os.environ["HANG"]).exists():
            time.sleep(0.1)
        return run(*inputs)

    models.run_batches = run_batches
    batching.Batcher.hung = SECONDS
    return _load(*given)


_load = server.load
