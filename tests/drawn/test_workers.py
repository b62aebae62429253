"""Processes that work for psp-train end when it does."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from psp_train.workers import worker_pool

STARTING = """
import sys, time
from multiprocessing import get_context
import workers_task
from psp_train.workers import worker_pool
if __name__ == "__main__":
    with worker_pool(3, get_context(sys.argv[1])) as pool:
        print(*set(pool.map(workers_task.pid, range(30))), flush=True)
        time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="reads /proc")
@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_workers_end_with_a_killed_parent(tmp_path, how):
    (tmp_path / "workers_task.py").write_text(
        "import os, time\ndef pid(n):\n    time.sleep(0.05)\n    return os.getpid()\n"
    )
    (tmp_path / "start.py").write_text(STARTING)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", os.getcwd())])
    }
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "start.py"), how], stdout=subprocess.PIPE, text=True, env=environment
    )
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert workers and all(map(alive, workers))
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


def test_workers_work():
    with worker_pool(2, get_context("fork")) as pool:
        assert list(pool.map(abs, (-1, 2))) == [1, 2]
