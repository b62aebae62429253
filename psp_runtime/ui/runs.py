"""What the page does when it is asked for pictures: a run of a verb of `psp`, with its files and its command.

What can be asked for is in `choices`, the page itself in `page`; nothing in here needs Gradio.
"""

import os
import re
import shutil
import threading
import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from psp_runtime.alignment.photos import Choice, Framing, align
from psp_runtime.console import Device
from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.engines.precision import Precision
from psp_runtime.engines.refinement import RefiningSession
from psp_runtime.engines.session import open_session
from psp_runtime.pictures.encoding import save
from psp_runtime.pictures.photos import open_photo
from psp_runtime.pipeline import Pipeline
from psp_runtime.run.execution import Run
from psp_runtime.run.latents_files import save_array
from psp_runtime.run.plan import make_plan
from psp_runtime.run.sefa import sefa_directions
from psp_runtime.ui import results
from psp_runtime.ui.canvas import Pixels, class_ids
from psp_runtime.ui.choices import as_options, command, with_spelled
from psp_runtime.ui.demo_engines import export_demo, is_whole
from psp_runtime.ui.results import Shown
from psp_runtime.ui.samples import own_directions
from psp_runtime.ui.watch import Watch

#: Runs whose files are kept for downloads.
KEPT = 50
#: Directions computed from the weights of a generator, for those who have none of their own, and what they are called.
COMPUTED = {f"the generator's {number}. strongest": str(number - 1) for number in range(1, 6)}


class Runs:
    """Runs of `psp` on engines that stay open, each in a folder of its own in `folder`; the last KEPT are kept.

    `demo` are engines that are exported when they are first used. One run works at a time, the others wait.
    """

    def __init__(
        self,
        folder: Path,
        device: Device = "auto",
        precision: Precision = "auto",
        demo: Mapping[Path, EngineInfo] | None = None,
    ) -> None:
        self.folder, self.device, self.precision, self.demo = folder, device, precision, demo or {}
        self._opened: dict[Path, Pipeline] = {}
        self._folders: deque[Path] = deque()
        self._count = 0
        self.one_at_a_time, self._counting = threading.RLock(), threading.Lock()

    def info(self, engine: Path) -> EngineInfo:
        """Say what an engine is, one that is not exported yet included. Raises `EngineError` for what is none."""
        return self.demo[engine] if engine in self.demo and not is_whole(engine) else read_info(engine)

    def run(self, engine: Path, values: Mapping[str, Any], watch: Watch | None = None) -> Shown:
        """Make what the values of a page ask for, with a ZIP of all files.

        Raises `PspError`, as `psp` does, for what cannot be made, and `Cancelled` where nobody waits for it any more.
        """
        watch = watch or Watch()
        with self.one_at_a_time, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pipeline = self.pipeline(engine, watch)
            asked = as_options(engine, with_spelled(values), self.device, self.precision)
            folder = self.new_folder()
            options = replace(asked, out=f"{folder}{os.sep}", gif=asked.gif and folder / asked.gif.name, quiet=True)
            pipeline.repeat(options.iterations)
            run = Run(make_plan(options, read_info(engine)), pipeline)
            _watch(run, watch)
            try:
                run.execute()
            finally:
                _watch(run, Watch())
            told = {self.worded(one.message) for one in caught if issubclass(one.category, UserWarning)}
            told |= {self.worded(failure) for failure in run.failures.values()}
            return results.collect(run, asked, command(asked), sorted(told))

    def faces(self, picture: str, info: EngineInfo) -> list[Path]:
        """Cut the faces of a photo out, the largest first, as small pictures to choose from."""
        framing, photo = Framing(info.input_size, info.crop_scale, least=0), Path(picture)
        folder = self.new_folder()
        paths = []
        for number, crop in enumerate(align(open_photo(photo).picture, photo.name, framing, Choice(0, None)), start=1):
            paths.append(folder / f"face_{number}.png")
            save(np.asarray(crop.picture), paths[-1])
        return paths

    def direction(self, engine: Path, name: str) -> tuple[Path, str | None]:
        """Find the file of a direction by what the page calls it, and which one of that file is meant."""
        if name not in COMPUTED:
            return own_directions()[name], None
        path = self.folder / f"{engine.stem}_sefa.npy"
        if not path.is_file():
            info = read_info(engine)
            save_array(path, sefa_directions(engine, info, None, min(len(COMPUTED), info.style_dim), False))
        return path, COMPUTED[name]

    def worded(self, message: object) -> str:
        """Reword a message about files in `folder` with their names alone: where they lie is nobody's business."""
        return re.sub(rf"{re.escape(str(self.folder))}/(\S*/)?", "", str(message))

    def random_face(self, engine: Path, seed: int, watch: Watch | None = None) -> Path:
        """Make a picture of nobody, as the engine's own generator makes them: something to try an engine with.

        Raises `EngineError` without the mapping network beside the engine.
        """
        with self.one_at_a_time:
            pipeline = self.pipeline(engine, watch or Watch())
            face = pipeline.decode(pipeline.styles(1, seed, psi=0.7))[0]
            path = self.new_folder() / f"face_{seed}.png"
            save(face, path)
            return path

    def save_drawing(self, picture: Pixels, kind: str) -> Path:
        """Save what is on a canvas [H,W,3] as a file `psp` reads: a sketch, or a label map of the painted colours."""
        path = self.new_folder() / ("labels.png" if kind == "labels" else "sketch.png")
        save(class_ids(picture) if kind == "labels" else np.ascontiguousarray(picture), path)
        return path

    def pipeline(self, engine: Path, watch: Watch | None = None) -> Pipeline:
        """Return the open engine; it is exported and opened when it is first needed."""
        watch = watch or Watch()
        with self.one_at_a_time:
            if engine in self.demo and not is_whole(engine):
                export_demo(engine, watch.step)
            if engine not in self._opened:
                watch.step("Opening the engine")
                self._opened[engine] = Pipeline(open_session(engine, self.device, precision=self.precision))
            return self._opened[engine]

    def new_folder(self) -> Path:
        """Make an empty folder for the files of a run, also while another run works."""
        with self._counting:
            self._count += 1
            self._folders.append(self.folder / str(self._count))
            self._folders[-1].mkdir()
            if len(self._folders) > KEPT:
                shutil.rmtree(self._folders.popleft())
            return self._folders[-1]

    def close(self) -> None:
        """Close every engine."""
        for pipeline in self._opened.values():
            pipeline.close()
        self._opened.clear()


def _watch(run: Run, watch: Watch) -> None:
    """Let a watch hear of every picture of a run, of ReStyle of every step: there the run can be ended."""
    pipeline, session = run.pipeline, run.pipeline.session
    steps = session.count if isinstance(session, RefiningSession) else 1
    count = len(run.plan.jobs) * max(run.application.count, steps)
    what, made = ("step" if isinstance(session, RefiningSession) else "picture"), 0

    def step(pictures: int = 0) -> None:
        nonlocal made
        made += pictures
        watch.step(f"Making {what} {min(made + 1, count)} of {count}", min(made, count), count)

    step()
    pipeline.told = step
    if isinstance(session, RefiningSession):
        session.told = step
        pipeline.told = lambda pictures: None
