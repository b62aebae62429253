"""Plans that fail on a GPU that is not there (conftest.py): one clear error, and nothing left behind."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_gpu
import fake_tensorrt
import numpy as np
import pytest
from fake_gpu import FakeGpu
from plan_inputs import Inputs, inputs
from tiny_engines import STYLES, write_plan

from psp_runtime.engines import devices
from psp_runtime.engines.session import open_session
from psp_runtime.engines.tensorrt.session import TensorRTSession, plan_module
from psp_runtime.errors import EngineError


@pytest.fixture
def python_handles_ctrl_c() -> Iterator[None]:
    """Not the handler of our command lines, which another test may have left: it remembers, and ends later tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_handles_ctrl_c")
@pytest.mark.parametrize("call", ["deserialize_cuda_engine", "execute_async_v3"])
def test_ctrl_c_is_raised_behind_what_tensorrt_does(
    gpu: FakeGpu, tmp_path: Path, reference: Callable, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Raised inside, where TensorRT logs, it would pass through C++."""
    session, given, through = TensorRTSession(tmp_path / "psp.trt"), inputs(1), []
    trt = sys.modules[plan_module(session.path, session.info)]
    kind = trt.Runtime if call.startswith("deserialize") else fake_tensorrt.ExecutionContext
    original = getattr(kind, call)

    def interrupted(*arguments: object) -> object:
        signal.raise_signal(signal.SIGINT)
        through.append(call)
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kind, call, interrupted)
        session.run(given) if call.startswith("execute") else TensorRTSession(tmp_path / "psp.trt")
    assert through == [call]
    reference(given, session.run(given))
    session.close()
    assert gpu.retained == 0


def test_a_context_that_cannot_be_entered_is_an_engine_error(
    gpu10: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = TensorRTSession(tmp_path / "psp.trt")

    def refuse(self: object) -> None:
        raise fake_gpu.Cuda.LogicError("cuCtxPushCurrent failed: an illegal memory access was encountered")

    monkeypatch.setattr(type(session._gpu._context), "push", refuse)
    with pytest.raises(EngineError, match=r"psp\.trt failed on the GPU: cuCtxPushCurrent"):
        session.run(inputs(1))


def test_a_plan_that_does_not_open_leaves_nothing_behind(gpu: FakeGpu, tmp_path: Path) -> None:
    gpu.memory = 500_000
    with pytest.raises(EngineError, match="out of memory|too little free GPU memory"):
        TensorRTSession(tmp_path / "psp.trt")
    assert gpu.released_with == [0] and gpu.stack() == [] and gpu.memory == 500_000


@pytest.mark.parametrize("fault", ["launch", "kernel"])
def test_a_failing_run_is_an_error_of_its_own_batch(
    gpu: FakeGpu, tmp_path: Path, reference: Callable, fault: str
) -> None:
    session, given = TensorRTSession(tmp_path / "psp.trt"), inputs(2)
    gpu.fails.append(fault)
    with pytest.raises(EngineError, match=r"psp\.trt failed on the GPU"):
        session.run(given)
    for _ in range(3):
        reference(given, session.run(given))
    assert gpu.stack() == []


def test_a_batch_that_failed_tells_only_who_asks_for_it(gpu10: FakeGpu, tmp_path: Path, reference: Callable) -> None:
    session, given = TensorRTSession(tmp_path / "psp.trt"), inputs(2)
    gpu10.fails.append("kernel")
    bad, good = session.submit(given), session.submit(given)
    reference(given, session.run(given))  # takes the lane of the bad one
    reference(given, good.result())
    with pytest.raises(EngineError, match="illegal memory access"):
        bad.result()


@pytest.mark.parametrize(
    ("change", "given"),
    [
        ({"extra": np.zeros(1)}, "extra float64 [1]"),
        ({"image": np.zeros((4, 256, 256, 3), np.uint8)}, "image uint8 [4,256,256,3]"),
        ({"image": np.zeros((0, 256, 256, 3), np.uint8)}, "image uint8 [0,256,256,3]"),
        ({"image": np.zeros((1, 99, 256, 3), np.uint8)}, "image uint8 [1,99,256,3]"),
        ({"image": np.zeros((1, 256, 256, 3), np.float32)}, "image float32 [1,256,256,3]"),
        ({"alpha": np.zeros((2, STYLES), np.float32)}, "alpha float32 [2,4]"),
    ],
)
def test_other_inputs_are_one_clear_line(gpu10: FakeGpu, tmp_path: Path, change: Inputs, given: str) -> None:
    session = TensorRTSession(tmp_path / "psp.trt")
    with pytest.raises(EngineError) as caught:
        session.run(inputs(1) | change)
    wanted = "takes batches B of 1..3: image uint8 [B,256,256,3], style float32 [B,4,8], alpha float32 [B,4]; given "
    assert wanted in str(caught.value) and given in str(caught.value) and gpu10.count("plain") == 0


def test_a_plan_of_8_6_for_one_context_is_refused(gpu86: FakeGpu, tmp_path: Path) -> None:
    gpu86.profile_is_shared = False
    session = TensorRTSession(tmp_path / "psp.trt")
    session.run(inputs(1))
    with pytest.raises(EngineError, match="built for one execution context .*: export it again"):
        session.run(inputs(2))


def test_a_plan_of_another_version_names_both(gpu10: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cuda_devices", lambda: 1)
    plan = write_plan(tmp_path / "psp.trt")
    plan.write_bytes(b"else" + plan.read_bytes()[4:])
    with pytest.raises(EngineError) as caught:
        open_session(plan)
    message = str(caught.value)
    for part in ("tensorrt 10.13.2 for sm_90", "tensorrt 10 on NVIDIA T4", "export it again", "[Version tag"):
        assert part in message
    assert gpu10.stack() == [] and gpu10.released_with == [0]


def test_a_cuda_failure_is_an_engine_error(gpu10: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise fake_gpu.Cuda.Error("cuInit failed: unknown error")

    monkeypatch.setattr(sys.modules["pycuda.driver"], "init", fail)
    with pytest.raises(EngineError, match=r"psp\.trt failed on the GPU: cuInit failed"):
        TensorRTSession(tmp_path / "psp.trt")
