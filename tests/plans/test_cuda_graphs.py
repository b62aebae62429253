"""CUDA graphs of plans on a GPU that is not there (conftest.py): recorded, replayed, given up."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_gpu import FakeGpu
from plan_inputs import BATCHES, inputs

from psp_runtime.engines.tensorrt.session import TensorRTSession


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


def test_what_interrupts_a_recording_ends_it(gpu10: FakeGpu, tmp_path: Path, reference: Callable) -> None:
    session, given = TensorRTSession(tmp_path / "psp.trt"), inputs(1)
    session.run(given)
    gpu10.fails.append("interrupt")
    with pytest.raises(KeyboardInterrupt):
        session.run(given)
    reference(given, session.run(given))
