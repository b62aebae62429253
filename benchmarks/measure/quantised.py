"""INT8: our files, and what the quantisers of ONNX Runtime and OpenVINO make of the baseline's ONNX.

All are calibrated on the same few drawn faces: how long an engine takes does not depend on its scales. So the PSNR that
`latency.py` shows beside these times is that of seeded weights and few faces; what INT8 costs a trained model is
`fidelity.py`'s to say. Our engines stay on the first rung of the ladder, unverified.
"""

import contextlib
import importlib.metadata
import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from measure.workloads import Piece, Workload, baseline_engine, baseline_inputs, cached, inputs, model_name, our_engine
from psp_export.draft import Draft
from psp_export.graphs.trace import save, set_info
from psp_export.int8.calibration import calibrate
from psp_export.int8.ladder import corrected, rungs
from psp_export.int8.layouts import CPU, Layout
from psp_export.int8.samples import Samples
from psp_export.verify.cases import CALIBRATION_SEED, faces
from psp_runtime.engines.devices import cpu_threads, importable
from psp_runtime.engines.info import read_info
from psp_runtime.engines.libraries import import_onnxruntime, import_openvino
from psp_runtime.engines.precision import lacks_int8
from psp_runtime.errors import PspError
from psp_train.seeded import unit_uniform

#: Batches of drawn faces to calibrate on: at 1024² each takes some seconds.
BATCHES = 4
#: What quantises the baseline, by the backend that runs it.
QUANTISERS = {"onnxruntime": "quantize_static", "openvino": "NNCF"}

#: Of a whole engine.
OUTPUTS = ("output", "latents")

#: From inputs by name to outputs by name.
Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def lacks_quantiser(backend: str) -> str:
    """Say what is not installed that quantises the baseline for a backend; empty where it is."""
    needed = {"onnxruntime": "onnxruntime", "openvino": "nncf"}[backend]
    return "" if importable(needed) else f"the Python package {needed} is not installed: pip install {needed}"


def calibration_inputs(workload: Workload, piece: Piece) -> list[dict[str, np.ndarray]]:
    """Inputs of a piece by name, `BATCHES` batches: drawn faces, or codes of a generator; nothing is mixed."""
    first = inputs(workload, piece)
    if piece.part == "generator":
        shape = first["latents"].shape
        return [{"latents": unit_uniform(f"latents {index}", shape)} for index in range(BATCHES)]
    drawn = faces("image", 0, BATCHES * workload.batch, CALIBRATION_SEED)
    return [first | {"image": images} for images in np.split(drawn, BATCHES)]


def our_int8(workload: Workload, piece: Piece, layout: Layout = CPU) -> Path:
    """The INT8 file of a piece for a processor, made of the FP32 one. The batch of the workload does not matter."""
    source, single = our_engine(workload, piece, "fp32"), replace(workload, batch=1)

    def write(folder: Path) -> None:
        feeds = calibration_inputs(single, piece)
        model, _ = corrected(source, calibrate(source, feeds), layout, rungs(layout)[0], feeds)
        seen = Samples(np.concatenate([next(iter(feed.values())) for feed in feeds]), np.empty(0))
        about = {"precision": "int8", "processor": layout.processor, "calibration": seen.to_metadata()}
        Draft(model, replace(read_info(source), **about), folder / "psp")

    return cached(f"ours-{model_name(single, piece)}-{piece.part}-int8-{layout.processor}", write) / source.name


def quantised_baseline(workload: Workload, piece: Piece, backend: str) -> Path:
    """The baseline of a piece in INT8 for a backend: an ONNX file with Q/DQ nodes, or OpenVINO's own form.

    Raises `PspError` where the quantiser is missing or refuses the baseline.
    """
    if lacking := lacks_quantiser(backend):
        raise PspError(lacking)
    source, write = baseline_engine(workload, piece), {"onnxruntime": _quantize_static, "openvino": _nncf}[backend]
    name = f"reference-{model_name(workload, piece)}-{piece.part}-batch{workload.batch}-int8-{backend}"
    feeds = calibration_inputs(workload, piece)
    feeds = [{name: feed[name] for name in baseline_inputs(workload, piece)} for feed in feeds]

    def attempt(folder: Path) -> None:
        try:
            write(source, feeds, folder)
        except Exception as error:  # the quantisers' exceptions share no base class
            words = str(error).strip() or type(error).__name__
            raise PspError(f"{QUANTISERS[backend]} refuses the baseline: {words.splitlines()[0]}") from error

    made = cached(name, attempt, f"{QUANTISERS[backend]} {_version(backend)} {lacks_int8()}")
    return made / source.with_suffix(".onnx" if backend == "onnxruntime" else ".xml").name


def _version(backend: str) -> str:
    return importlib.metadata.version({"onnxruntime": "onnxruntime", "openvino": "nncf"}[backend])


def _quantize_static(source: Path, feeds: list[dict[str, np.ndarray]], folder: Path) -> None:
    """As ONNX Runtime advises for CPUs: Q/DQ nodes, activations unsigned, weights of 7 bits where there is no VNNI."""
    import_onnxruntime()  # told not to report before anything of it is loaded
    import onnxruntime.quantization as q

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[dict[str, np.ndarray]] = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    target = folder / source.name
    form = dict(quant_format=q.QuantFormat.QDQ, activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8)
    q.quantize_static(source, target, Reader(), per_channel=True, reduce_range=bool(lacks_int8()), **form)
    model = onnx.load(str(target))
    set_info(model, replace(read_info(source), precision="int8"))
    save(model, target)


def _nncf(source: Path, feeds: list[dict[str, np.ndarray]], folder: Path) -> None:
    """NNCF's default on OpenVINO's form of the file."""
    openvino = import_openvino()
    import nncf

    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress
        model = nncf.quantize(openvino.Core().read_model(source), nncf.Dataset(feeds), subset_size=len(feeds))
    openvino.serialize(model, folder / source.with_suffix(".xml").name)


def run_in_onnxruntime(path: Path) -> tuple[Run, str]:
    """Open with ONNX Runtime's 8-bit kernels, which our own sessions leave out; with what it computes in."""
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = cpu_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda arrays: dict(zip(names, session.run(names, arrays), strict=True)), "int8"


def run_in_openvino(path: Path) -> tuple[Run, str]:
    """Open OpenVINO's own form, set as our sessions set it; with what it computes in."""
    from psp_runtime.engines.openvino.islands import executed_precision

    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": cpu_threads()}
    compiled = import_openvino().Core().compile_model(path, "CPU", config | {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    names = {port: next(name for name in OUTPUTS if name in port.names) for port in compiled.outputs}

    def run(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        results = request.infer(arrays)
        return {name: results[port] for port, name in names.items()}

    return run, executed_precision(compiled)


RUN_IN = {"onnxruntime": run_in_onnxruntime, "openvino": run_in_openvino}
