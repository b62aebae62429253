"""Plans on a GPU that is not there (tests/support/fake_gpu.py, tests/support/fake_tensorrt.py)."""

import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_gpu
import fake_tensorrt
import numpy as np
import pytest
from fake_gpu import FakeGpu
from plan_inputs import BATCHES, Inputs, inputs, onnx_check
from tiny_engines import MAX_BATCH, STYLES, write_plan

from psp_runtime.engines import devices
from psp_runtime.engines.session import open_session
from psp_runtime.engines.tensorrt.session import LANES, TensorRTSession, plan_module
from psp_runtime.errors import EngineError


@pytest.fixture(params=["8.6", "10", "rtx"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeGpu:
    return _installed(request.param, monkeypatch, tmp_path)


@pytest.fixture
def gpu10(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeGpu:
    return _installed("10", monkeypatch, tmp_path)


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeGpu:
    return _installed("rtx", monkeypatch, tmp_path)


def _installed(flavour: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeGpu:
    monkeypatch.setenv("PSP_CACHE", str(tmp_path / "cache"))
    write_plan(tmp_path / "psp.trt", backend="tensorrt_rtx" if flavour == "rtx" else "tensorrt")
    return fake_tensorrt.install(monkeypatch, flavour)


@pytest.fixture
def reference(tmp_path: Path) -> Callable[[Inputs, Inputs], None]:
    """Compares the outputs of a plan with those of the ONNX file in ONNX Runtime."""
    return onnx_check(tmp_path)


def test_every_run_agrees_with_the_onnx(gpu: FakeGpu, tmp_path: Path, reference: Callable) -> None:
    session = TensorRTSession(tmp_path / "psp.trt")
    for seed, batch in enumerate(BATCHES):
        given = inputs(batch, seed)
        reference(given, session.run(given))
    assert session.last_ms == 1.5
    session.close()


def test_a_batch_size_runs_plainly_then_is_recorded_then_replayed(gpu10: FakeGpu, tmp_path: Path) -> None:
    session = TensorRTSession(tmp_path / "psp.trt")
    for batch in (1, 3, 1, 1, 3, 3, 1):
        session.run(inputs(batch))
    assert [gpu10.count(entry) for entry in ("plain", "recorded", "replay")] == [2, 2, 5]
    assert gpu10.count("context") == 2, "a graph needs an execution context of its own"


def test_without_cuda_graphs_every_run_is_plain(gpu10: FakeGpu, tmp_path: Path, reference: Callable) -> None:
    session = TensorRTSession(tmp_path / "psp.trt", cuda_graphs=False)
    for seed, batch in enumerate(BATCHES):
        given = inputs(batch, seed)
        reference(given, session.run(given))
    assert gpu10.count("plain") == len(BATCHES) and gpu10.count("begin") == 0


def test_rtx_records_graphs_itself_and_compiles_before_it_runs(rtx: FakeGpu, tmp_path: Path) -> None:
    for cuda_graphs in (True, False):
        session = TensorRTSession(tmp_path / "psp.trt", cuda_graphs)
        for batch in (1, 3, 1):
            session.run(inputs(batch))
    assert rtx.count("plain") == 6 and rtx.count("begin") == 0 and rtx.count("context") == 2
    assert rtx.count("rtx eager") == 2
    assert [entry for entry in rtx.log if "graph" in entry] == ["rtx whole graph", "rtx no graphs"]


def test_a_plan_that_cannot_be_recorded_runs_plainly_for_good(
    gpu10: FakeGpu, tmp_path: Path, reference: Callable
) -> None:
    gpu10.capturable = False
    session = TensorRTSession(tmp_path / "psp.trt")
    with pytest.warns(UserWarning, match="CUDA graphs are not used") as caught:
        for seed, batch in enumerate(BATCHES):
            given = inputs(batch, seed)
            reference(given, session.run(given))
    assert len(caught) == 1 and gpu10.count("begin") == 1 and gpu10.count("plain") == len(BATCHES)
    assert not gpu10.graphs


def test_a_recording_that_fails_late_gives_up_earlier_graphs(
    gpu10: FakeGpu, tmp_path: Path, reference: Callable
) -> None:
    session = TensorRTSession(tmp_path / "psp.trt")
    for seed, batch in enumerate((1, 1, 1, 3, 3, 1)):
        gpu10.capturable = batch == 1
        given = inputs(batch, seed)
        if seed == 4:
            with pytest.warns(UserWarning, match="CUDA_ERROR_STREAM_CAPTURE|batch of 3"):
                reference(given, session.run(given))
        else:
            reference(given, session.run(given))
    assert gpu10.log[-1] == "plain" and not gpu10.graphs


def test_without_cuda_bindings_a_warning_says_what_to_install(
    gpu10: FakeGpu, tmp_path: Path, reference: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    session, given = TensorRTSession(tmp_path / "psp.trt"), inputs(2)
    session.run(given)
    with pytest.warns(UserWarning, match="pip install cuda-bindings"):
        reference(given, session.run(given))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reference(given, session.run(given))
    session.close()
    assert gpu10.released_with == [0]


def test_many_batches_overlap_and_keep_their_order(gpu: FakeGpu, tmp_path: Path, reference: Callable) -> None:
    session = TensorRTSession(tmp_path / "psp.trt")
    buffer = inputs(MAX_BATCH)

    def refilled() -> Iterator[Inputs]:
        """The caller's arrays change as soon as they were taken."""
        for seed, batch in enumerate(BATCHES):
            for name, array in inputs(batch, seed).items():
                buffer[name][:batch] = array
            yield {name: array[:batch] for name, array in buffer.items()}

    results = list(session.run_many(refilled()))
    session.close()  # the results are copies
    for seed, (batch, result) in enumerate(zip(BATCHES, results, strict=True)):
        reference(inputs(batch, seed), result)
    assert gpu.most_waiting == LANES


def test_other_runs_come_between_and_a_stream_may_be_left(gpu: FakeGpu, tmp_path: Path, reference: Callable) -> None:
    session = TensorRTSession(tmp_path / "psp.trt")
    given = [inputs(1 + seed % MAX_BATCH, seed) for seed in range(7)]
    many = session.run_many(given[:4])
    for index, result in enumerate(many):
        reference(given[index], result)
        reference(given[5], session.run(given[5]))
        if index == 1:
            break
    waiting = [session.submit(one) for one in given]
    reference(given[6], session.run(given[6]))
    for one, pending in reversed(list(zip(given, waiting, strict=True))):
        reference(one, pending.result())


def test_one_run_after_another_needs_one_lane(gpu10: FakeGpu, tmp_path: Path) -> None:
    session = TensorRTSession(tmp_path / "psp.trt")
    for _ in range(5):
        session.run(inputs(1))
    assert len(gpu10.streams) == 1


def test_a_gpu_too_small_for_two_batches_runs_one_at_a_time(
    gpu10: FakeGpu, tmp_path: Path, reference: Callable
) -> None:
    session = TensorRTSession(tmp_path / "psp.trt")
    gpu10.memory = 5000
    given = [inputs(1, seed) for seed in range(5)]
    with pytest.warns(UserWarning, match="one batch at a time.*out of memory") as caught:
        for one, result in zip(given, session.run_many(given), strict=True):
            reference(one, result)
    assert len(caught) == 1 and gpu10.most_waiting == 1 and gpu10.memory == 5000


def test_threads_get_their_own_results(gpu: FakeGpu, tmp_path: Path, reference: Callable) -> None:
    session = TensorRTSession(tmp_path / "psp.trt")
    results: dict[int, Inputs] = {}

    def work(seed: int) -> None:
        for _ in range(3):
            results[seed] = session.run(inputs(1 + seed % MAX_BATCH, seed))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(5):
        reference(inputs(1 + seed % MAX_BATCH, seed), results[seed])


def test_closing_frees_everything_and_keeps_what_is_under_way(
    gpu: FakeGpu, tmp_path: Path, reference: Callable
) -> None:
    session, given = TensorRTSession(tmp_path / "psp.trt"), inputs(2)
    for _ in range(3):
        session.run(given)
    waiting = [session.submit(given) for _ in range(3)]
    session.close()
    session.close()
    assert gpu.released_with == [0] and gpu.left_current == 0 and gpu.retained == 0
    for pending in waiting:
        reference(given, pending.result())
    with pytest.raises(EngineError, match=r"psp\.trt is closed"):
        session.run(given)


def test_a_session_closed_in_another_thread_gives_the_context_back(gpu: FakeGpu, tmp_path: Path) -> None:
    session = TensorRTSession(tmp_path / "psp.trt")
    assert gpu.retained == 1
    thread = threading.Thread(target=session.close)
    thread.start()
    thread.join()
    assert gpu.released_with == [0] and (gpu.retained, gpu.left_current) == (0, 0)


def test_what_interrupts_a_recording_ends_it(gpu10: FakeGpu, tmp_path: Path, reference: Callable) -> None:
    session, given = TensorRTSession(tmp_path / "psp.trt"), inputs(1)
    session.run(given)
    gpu10.fails.append("interrupt")
    with pytest.raises(KeyboardInterrupt):
        session.run(given)
    reference(given, session.run(given))


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


def test_a_plan_of_8_6_for_one_context_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpu = _installed("8.6", monkeypatch, tmp_path)
    gpu.profile_is_shared = False
    session = TensorRTSession(tmp_path / "psp.trt")
    session.run(inputs(1))
    with pytest.raises(EngineError, match="built for one execution context .*: export it again"):
        session.run(inputs(2))


def test_compiled_kernels_are_kept_until_the_next_start(
    rtx: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = TensorRTSession(tmp_path / "psp.trt")
    for batch in (1, 1, 3):
        session.run(inputs(batch))
    (file,) = (tmp_path / "cache" / "tensorrt_rtx").iterdir()
    assert file.read_bytes() == b"1.7:\x01\x03", "kept after the first run of each batch size, without a close"
    rtx.kernels.clear()
    again = TensorRTSession(tmp_path / "psp.trt")
    assert rtx.count("warm [1, 3]") == 1
    written = file.stat().st_mtime_ns
    again.run(inputs(1))
    assert file.stat().st_mtime_ns == written, "nothing new was compiled"


def test_compiled_kernels_of_another_version_are_replaced(rtx: FakeGpu, tmp_path: Path) -> None:
    TensorRTSession(tmp_path / "psp.trt").run(inputs(1))
    (file,) = (tmp_path / "cache" / "tensorrt_rtx").iterdir()
    file.write_bytes(b"0.9:\x01")
    rtx.kernels.clear()
    TensorRTSession(tmp_path / "psp.trt").run(inputs(2))
    assert file.read_bytes() == b"1.7:\x02"


def test_a_cache_folder_that_cannot_be_written_is_a_warning(rtx: FakeGpu, tmp_path: Path, reference: Callable) -> None:
    (tmp_path / "cache").write_text("a file")
    session, given = TensorRTSession(tmp_path / "psp.trt"), inputs(1)
    with pytest.warns(UserWarning, match="kernels are not kept"):
        reference(given, session.run(given))


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
