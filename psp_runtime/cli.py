"""`psp-run`: pictures through an engine."""

import os
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import numpy as np
import typer
from numpy.typing import NDArray

from psp_runtime import console, images
from psp_runtime.errors import PictureError, PspError
from psp_runtime.metadata import EngineInfo, read_info
from psp_runtime.pipeline import THREADS, Pipeline, Translation, map_ahead
from psp_runtime.sessions import open_session

Item = TypeVar("Item")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Device(str, Enum):
    """Where to run."""

    auto = "auto"
    cuda = "cuda"
    cpu = "cpu"


def main() -> NoReturn:
    """The `psp-run` command."""
    console.run(app)


@app.command(no_args_is_help=True)
def psp_run(
    inputs: Annotated[
        list[Path] | None, typer.Argument(metavar="INPUTS", help="Pictures, and folders of them.")
    ] = None,
    engine: Annotated[Path | None, typer.Option(help="The engine to run: .onnx or .trt.")] = None,
    out: Annotated[
        str | None, typer.Option(help="The output's name (for a single picture), or a folder (default: here).")
    ] = None,
    device: Annotated[
        Device, typer.Option(help="auto: the GPU if the engine can use it here, else the CPU.")
    ] = Device.auto,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Pictures per inference (default: the engine's maximum; on a CPU 1).")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, max=8192, help="Resize the outputs to this width and height.")
    ] = None,
    save_latents: Annotated[
        str | None, typer.Option(help="Save the W+ codes: CODES.npy [N,L,S] in input order, or a folder of NAME.npy.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Threads that read and write pictures.")] = THREADS,
    info: Annotated[Path | None, typer.Option(metavar="ENGINE", help="Print what an engine says about itself.")] = None,
) -> None:
    """Run pictures through an exported pSp engine: photo.png becomes photo_out.png in the working folder.

    X_out.png beside a picture X is an earlier output: it is overwritten, never read.

    Among several pictures, one that cannot be read is reported and skipped (exit 1 at the end); alone, it is an
    error (exit 2).
    """
    if info:
        if inputs or engine:
            raise PspError("--info ENGINE stands alone: leave out the pictures and --engine")
        print(_table(info, read_info(info)))
        return
    if not inputs or not engine:
        raise PspError("expected pictures and --engine ENGINE, or --info ENGINE")
    read_info(engine)
    single = len(inputs) == 1 and not inputs[0].is_dir()
    pictures = _pictures(inputs)
    outputs = _outputs(pictures, out, single)
    _check_clashes(pictures, outputs)
    codes = Codes(save_latents) if save_latents else None
    for folder in {path.parent for path in outputs} | ({codes.folder} if codes else set()):
        _make_writable(folder)
    with Pipeline(open_session(engine, device.value)) as pipeline:
        run = Run(pipeline, list(zip(pictures, outputs, strict=True)), batch, size, threads, codes)
        failed = run.translate(stop_at_error=single)
    if failed:
        console.error(f"{failed} of {len(pictures)} pictures could not be used and were skipped")
        raise typer.Exit(1)


class Codes:
    """Where W+ codes go: `name` is one .npy file for all pictures, or a folder of one per picture."""

    def __init__(self, name: str) -> None:
        path = Path(name)
        self.file = None if _names_folder(name) else path
        self.folder = path.parent if self.file else path
        self._kept: list[NDArray[np.float32]] = []
        if self.file and self.file.suffix != ".npy":
            raise PspError(f"--save-latents {name}: expected a name that ends in .npy, or a folder")

    def add(self, picture: Path, latents: NDArray[np.float32]) -> None:
        """Take the codes [L,S] of the next picture."""
        if self.file:
            self._kept.append(latents)
        else:
            _save_array(self.folder / f"{picture.stem}.npy", latents)

    def finish(self) -> None:
        """Write the one file [N,L,S], if there is something to write."""
        if self.file and self._kept:
            _save_array(self.file, np.stack(self._kept))


@dataclass(frozen=True)
class Run:
    """One run over (picture, output) pairs."""

    pipeline: Pipeline
    jobs: list[tuple[Path, Path]]
    batch: int | None
    size: int | None
    threads: int
    codes: Codes | None

    def translate(self, stop_at_error: bool) -> int:
        """Translate and save everything, reading, inference and writing overlapped; count the pictures that failed."""
        started, failed = time.perf_counter(), 0
        pictures = [picture for picture, _ in self.jobs]
        with (
            closing(self.pipeline.stream(pictures, self.batch, self.threads)) as results,
            closing(
                map_ahead(self._save, zip(self.jobs, results, strict=True), self.threads, 4 * self.threads)
            ) as saved,
        ):
            for picture, result in zip(pictures, _with_progress(saved, len(pictures)), strict=True):
                if isinstance(result, PictureError):
                    if stop_at_error:
                        raise result
                    console.error(result)
                    failed += 1
                elif self.codes:
                    self.codes.add(picture, result.latents)
        if self.codes:
            self.codes.finish()
        self._report(len(pictures) - failed, time.perf_counter() - started)
        return failed

    def _save(self, done: tuple[tuple[Path, Path], Translation | PictureError]) -> Translation | PictureError:
        (_, output), result = done
        if isinstance(result, Translation):
            images.save(images.resize(result.output, self.size) if self.size else result.output, output)
        return result

    def _report(self, count: int, seconds: float) -> None:
        if count:
            where = self.jobs[0][1] if len(self.jobs) == 1 else f"{self.jobs[0][1].parent}{os.sep}"
            word = "picture" if count == 1 else "pictures"
            print(
                f"{count} {word} in {seconds:.2f} s ({count / seconds:.1f} pictures/s, {self.pipeline.device}): {where}"
            )


def _pictures(inputs: list[Path]) -> list[Path]:
    """The pictures named, and those in the folders named, in that order; without outputs of earlier runs."""
    pictures: list[Path] = []
    for path in inputs:
        found = images.list_pictures(path) if path.is_dir() else [path]
        if not found:
            raise PspError(f"no pictures in {path}: expected files named {', '.join(images.FORMATS)}")
        pictures += found
    return images.without_outputs(pictures)


def _outputs(pictures: list[Path], out: str | None, single: bool) -> list[Path]:
    """Where each picture's output goes."""
    if out and not _names_folder(out):
        if single:
            images.picture_format(Path(out))
            return [Path(out)]
        if Path(out).suffix.lower() in images.FORMATS:
            raise PspError(f"--out {out} names one picture, but the input is a folder or several: give a folder")
    return [Path(out or ".") / f"{picture.stem}{images.OUTPUT_ENDING}.png" for picture in pictures]


def _names_folder(name: str) -> bool:
    return name.endswith(("/", os.sep)) or Path(name).is_dir() or not Path(name).suffix


def _check_clashes(pictures: list[Path], outputs: list[Path]) -> None:
    sources = {picture.resolve() for picture in pictures}
    writers: dict[Path, Path] = {}
    for picture, output in zip(pictures, outputs, strict=True):
        if output in writers:
            raise PspError(f"{writers[output]} and {picture} would both become {output}: rename one, or run them apart")
        if output.resolve() in sources:
            raise PspError(f"{output}, the output of {picture}, is an input too: choose another --out")
        writers[output] = picture


def _make_writable(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise PspError(f"cannot write into {folder}: it is a file, expected a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PspError(f"cannot write into {folder}: {error.strerror}") from error


def _save_array(path: Path, array: NDArray[np.float32]) -> None:
    with images.replacing(path) as file:
        np.save(file, array)


def _with_progress(results: Iterable[Item], count: int) -> Iterable[Item]:
    if count == 1 or not sys.stderr.isatty():
        return results
    from rich.console import Console
    from rich.progress import track

    return track(results, "psp-run", count, console=Console(stderr=True), transient=True)


def _table(path: Path, info: EngineInfo) -> str:
    """The metadata as aligned lines."""
    rows = {
        "engine": f"{path} ({path.stat().st_size / 2**20:.1f} MiB)",
        "task": info.task,
        "encoder": info.encoder,
        "part": info.part,
        "input": _input(info),
        "output": f"uint8 [B,{info.output_size},{info.output_size},3] RGB",
        "latents": f"float32 [B,{info.styles},{info.style_dim}]",
        "mixed layers": f"{_ranges(info.mix_layers)} at {info.mix_alpha:g}",
        "largest batch": str(info.max_batch),
        "precision": info.precision,
        "made with": f"{info.backend} {info.backend_version}",
        "made for": info.device or "any device",
        "checkpoint": info.checkpoint,
        "parity": _parity(info),
        "license": info.license,
    }
    width = max(map(len, rows)) + 2
    return "\n".join(f"{label:<{width}}{value}" for label, value in rows.items())


def _input(info: EngineInfo) -> str:
    side = info.input_size
    return {
        "rgb": f"uint8 [B,{side},{side},3] RGB",
        "sketch": f"uint8 [B,{side},{side},1] grey sketch",
        "labels": f"uint8 [B,{side},{side}] ids of {info.classes} classes",
    }[info.input]


def _ranges(layers: tuple[int, ...]) -> str:
    if layers and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers)) or "none"


def _parity(info: EngineInfo) -> str:
    if not info.parity:
        return "not verified"
    return ", ".join(f"{name} {value:g}" for name, value in info.parity.items())
