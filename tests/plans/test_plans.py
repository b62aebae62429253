"""Plans on a GPU that is not there (conftest.py): results, batches that overlap, threads, kept kernels."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_gpu import FakeGpu
from plan_inputs import BATCHES, Inputs, inputs
from tiny_engines import MAX_BATCH

from psp_runtime.engines.tensorrt.session import LANES, TensorRTSession
from psp_runtime.errors import EngineError


def test_every_run_agrees_with_the_onnx(gpu: FakeGpu, tmp_path: Path, reference: Callable) -> None:
    session = TensorRTSession(tmp_path / "psp.trt")
    for seed, batch in enumerate(BATCHES):
        given = inputs(batch, seed)
        reference(given, session.run(given))
    assert session.last_ms == 1.5
    session.close()


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
