"""Write finished engine files as a model repository of Triton Inference Server: `psp-export --triton FOLDER`.

    FOLDER/psp/config.pbtxt, 1/model.plan or 1/model.onnx, warmup/image
    FOLDER/psp_mapping/…        the mapping network, on the CPU
    FOLDER/README.md            how to start the server

A plan opens only in the TensorRT that built it, so model.plan is written where a release of Triton has that very one;
everything else is served as ONNX.
"""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from psp_export.output_files import Written, put_in_place, staging, stem
from psp_export.verify.cases import pictures
from psp_runtime.engines import contract, fields
from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.errors import PspError
from psp_runtime.run.files import make_writable
from psp_runtime.serving.config import MAPPING_ENDING, WARMUP_IMAGE, Model, config_text, preferred_batches

#: The Triton release (tag of the docker image) that has a TensorRT, newest last: NVIDIA's compatibility table
#: (Triton user guide, introduction/compatibility), where its images of a month agree on CUDA. A Triton of another
#: TensorRT refuses the plan and says so.
RELEASES = {"10.7.0": "24.12", "10.8.0": "25.01", "10.9.0": "25.03"}
NEWEST = list(RELEASES.values())[-1]
#: Which drawn face the server is warmed up with.
WARMUP_SEED = 13

#: In the first line of every README written here, and so the sign of one that may be replaced.
TITLE = "for Triton Inference Server"

README = """\
# {name}: {task}, {title} {release}

In this folder:

    docker run --rm --gpus all -p 127.0.0.1:8000:8000 -v "$PWD:/models:ro" \\
        nvcr.io/nvidia/tritonserver:{release}-py3 tritonserver --model-repository=/models

{engine} Without a GPU, leave out `--gpus all`{without_gpu}

    psp-run picture.png --url http://localhost:8000{path}

Triton believes its callers: keep it on 127.0.0.1 or in a network of its own, and let strangers in only through a proxy
that asks for a password and does what Triton does not:

- bodies of at most {mebibytes} MiB, none with Content-Encoding, and a deadline for head and body;
- only GET /v2/health/ready, GET /v2/models/{name}/config, POST /v2/models/{name}/infer, and those of {name}_mapping;
- a limit on requests at once: this configuration has none;
- nothing of ports 8001 (gRPC) and 8002 (metrics), nor of shared memory, the model repository, tracing and logging.

Nor does it check values: it computes with NaN and with class ids that the engine does not know.
`psp-serve` needs none of this on a machine of its own, and checks values too.

In: {inputs}.
Out: {outputs}.
B is 1 to {batch}. Zeros as style and alpha translate without mixing.{steps}

{license}
"""

#: What the README says of an engine that is one step of ReStyle.
STEPS = """

A request is one step of ReStyle, and {iterations} of them make a picture: start is 1 in the first, with any previous
and codes. After each, picture and latents of the answer go in as previous and codes, with start 0.
Styles are mixed in in the last step: before it alpha is 0. `psp-run --url` does all this."""


@dataclass(frozen=True)
class Choice:
    """The file that is served, Triton's backend for it, the release to serve it with, and why, in a sentence."""

    file: Path
    backend: str
    release: str
    reason: str


def model_name(output: Path) -> str:
    """Name the model of an `--output`."""
    return stem(output).name


def check_repository(folder: Path, name: str) -> None:
    """Raise `PspError` for a model repository that cannot be written."""
    parent = folder.absolute().parent
    if os.path.lexists(folder) and not folder.is_dir():
        raise PspError(f"--triton {folder} is not a folder: give a folder, or a name for a new one")
    if not parent.is_dir():
        raise PspError(f"--triton {folder}: there is no folder {parent}; create it first")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise PspError(f"--output {name}: Triton takes names of letters, digits, dots, dashes and underscores only")
    for model in (folder / name, folder / f"{name}{MAPPING_ENDING}"):
        if model.exists() and not (model / "config.pbtxt").is_file():
            raise PspError(f"{model} exists and is not a model for Triton: give another --triton folder")
    readme = folder / "README.md"
    if readme.exists() and not _is_ours(readme):
        raise PspError(f"{readme} exists and was not written by psp-export: rename it, or give another --triton folder")
    make_writable(folder if folder.is_dir() else parent)


def _is_ours(readme: Path) -> bool:
    return readme.is_file() and TITLE in readme.read_text(encoding="utf-8", errors="replace").partition("\n")[0]


def choose(files: list[Written]) -> Choice:
    """Choose the plan where a release of Triton opens it, else the ONNX file."""
    onnx, *plans = sorted((f.path for f in files if f.part in fields.WHOLE), key=lambda path: path.suffix != ".onnx")
    if not plans:
        return _as_onnx(onnx, "no plan was built")
    info = read_info(plans[0])
    release = RELEASES.get(_version(info)) if info.backend == "tensorrt" else None
    made_with = f"{info.backend} {info.backend_version}"
    if release is None:
        return _as_onnx(onnx, f"no known release of Triton has {made_with}")
    if info.custom_ops:
        return _as_onnx(onnx, "the plan needs plugins Triton does not have", release)
    return Choice(plans[0], "tensorrt", release, f"model.plan was built by {made_with} for {info.device}.")


def _as_onnx(file: Path, reason: str, release: str = NEWEST) -> Choice:
    return Choice(file, "onnxruntime", release, f"It is served as ONNX: {reason}.")


def _version(info: EngineInfo) -> str:
    """Shorten 10.7.0.23 or 10.7.0.post1 to 10.7.0."""
    return ".".join(info.backend_version.split(".")[:3])


def write_repository(folder: Path, files: list[Written], name: str) -> Choice:
    """Write the model repository of an export; models of the same names are replaced, all or none, others stay.

    Raises `PspError` as `check_repository` does, before anything is written, and where the system refuses.
    """
    check_repository(folder, name)
    folder.mkdir(exist_ok=True)
    choice = choose(files)
    info = read_info(choice.file)
    kind = "KIND_GPU" if choice.backend == "tensorrt" else "KIND_AUTO"
    warm = tuple(sorted({1, *preferred_batches(info.max_batch)}))
    with staging(folder) as drafts_folder:
        drafts = [_draft(drafts_folder, choice.file, Model(name, choice.backend, kind, warm_batches=warm))]
        for mapping in (file.path for file in files if file.part == "mapping"):
            drafts.append(_draft(drafts_folder, mapping, Model(f"{name}{MAPPING_ENDING}", "onnxruntime", "KIND_CPU")))
        readme = drafts_folder / "README.md"
        readme.write_text(_readme(name, info, choice), encoding="utf-8", errors="surrogateescape")
        put_in_place([*drafts, readme], folder)
    return choice


def _draft(folder: Path, file: Path, model: Model) -> Path:
    """Make one model of the repository; returns its folder."""
    home, info = folder / model.name, read_info(file)
    (home / "1").mkdir(parents=True)
    suffix = ".plan" if model.backend == "tensorrt" else ".onnx"
    shutil.copyfile(file, home / "1" / f"model{suffix}")
    (home / "config.pbtxt").write_text(config_text(info, model))
    if model.warm_batches:
        (home / "warmup").mkdir()
        picture = pictures(info.input, info.classes, 2, WARMUP_SEED, info.input_height)[0]
        (home / "warmup" / WARMUP_IMAGE).write_bytes(picture.tobytes())
    return home


def _mebibytes(info: EngineInfo) -> int:
    """Count what the largest request takes, with its head: rounded up."""
    tensors = contract.inputs(info).values()
    return 1 + (info.max_batch * sum(tensor.zeros(1).nbytes for tensor in tensors) >> 20)


def _named(tensors: dict[str, contract.Tensor]) -> str:
    """List tensors by name, such as "image uint8 [B,256,256,3], alpha float32 [B,18]"."""
    return ", ".join(f"{name} {tensor}" for name, tensor in tensors.items())


def _readme(name: str, info: EngineInfo, choice: Choice) -> str:
    return README.format(
        name=name,
        task=info.task,
        release=choice.release,
        title=TITLE,
        engine=choice.reason,
        without_gpu="." if choice.backend == "onnxruntime" else " and serve the ONNX file: psp-export --backend onnx.",
        path="" if name == "psp" else f"/{name}",
        inputs=_named(contract.inputs(info)),
        outputs=_named(contract.outputs(info)),
        steps=STEPS.format(iterations=info.iterations) if info.part == "step" else "",
        batch=info.max_batch,
        mebibytes=_mebibytes(info),
        license=info.license,
    )
