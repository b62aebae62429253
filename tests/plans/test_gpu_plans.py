"""Real plans of the tiny engine on a real GPU. Needs no PyTorch: TensorRT 8.6 has a Python of its own."""

import warnings
from pathlib import Path

import pytest
from plan_inputs import BATCHES, inputs, onnx_check
from tiny_engines import MAX_BATCH
from tiny_plans import need_plans_that_run, tiny_plan

from psp_runtime.engines.info import read_info
from psp_runtime.engines.session import open_session
from psp_runtime.engines.tensorrt.session import TensorRTSession
from psp_runtime.errors import EngineError


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_a_plan_on_a_gpu_agrees_with_its_onnx(tmp_path: Path, cuda_graphs: bool) -> None:
    need_plans_that_run()
    reference = onnx_check(tmp_path)
    session = TensorRTSession(tiny_plan(tmp_path), cuda_graphs)
    assert session.device == "cuda" and session.max_batch == MAX_BATCH
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as: CUDA graphs are not used
        for seed, batch in enumerate(BATCHES):
            given = inputs(batch, seed)
            reference(given, session.run(given))
        given_all = [inputs(batch, seed) for seed, batch in enumerate(BATCHES)]
        results = list(session.run_many(given_all))
    assert session.last_ms > 0
    session.close()
    for given, result in zip(given_all, results, strict=True):
        reference(given, result)


@pytest.mark.gpu
def test_a_plan_cut_in_half_on_a_gpu(tmp_path: Path) -> None:
    need_plans_that_run()
    plan = tiny_plan(tmp_path)
    data = plan.read_bytes()
    end_of_metadata = data.index(b"psp:{") + len(read_info(plan).to_plan_name())
    assert end_of_metadata < len(data) * 0.9
    plan.write_bytes(data[: max(end_of_metadata, len(data) // 2)])
    with pytest.raises(EngineError, match="damaged"):
        open_session(plan, "cuda")
