"""What a run writes of each input: its pictures, alone or in their photo, with a note of how they were made."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from psp_runtime.alignment.cropping import Crop
from psp_runtime.alignment.pasting import Mask, lay
from psp_runtime.alignment.photos import Choice
from psp_runtime.disk import noticing
from psp_runtime.pictures import encoding, png, sheets
from psp_runtime.pictures import loading as images
from psp_runtime.pictures.photos import open_photo
from psp_runtime.pipeline import Pipeline
from psp_runtime.prefetch import parallel_map
from psp_runtime.run.files import Job
from psp_runtime.run.plan import Plan

#: Options in the note of every picture they shaped.
NOTED = ("downsample", "sketch_from_photo", "align", "faces", "paste_back", "couple", "size")

Pixels = NDArray[np.uint8]


class Result(NamedTuple):
    """One input, its K sources (faces, with --align), and of each the pictures, uint8 [K,N,H,W,3].

    `latents` [K,L,S] are there where they are known, `crops` with --align, and `written` once files are.
    """

    job: Job
    sources: Any
    pictures: Pixels
    latents: NDArray[np.float32] | None
    crops: tuple[Crop, ...] = ()
    written: tuple[Path, ...] = ()


class Saver:
    """Writes what a plan asks for; `writers` are the threads for the pictures of one input."""

    def __init__(self, plan: Plan, pipeline: Pipeline, writers: int) -> None:
        self.plan, self.pipeline, self.options, self.writers = plan, pipeline, plan.options, writers
        self.quality = encoding.QUALITY if plan.options.quality is None else plan.options.quality
        self.level = png.QUICKEST if plan.options.compression is None else plan.options.compression
        self.replaced: list[Path] = []

    def save(self, result: Result) -> Result:
        """Write the files of one input; give the same result, resized as asked, with what was written."""
        size, whole = self.options.size, self.options.paste_back
        if size and not whole:
            height = images.scaled(result.pictures.shape[2:], size)
            resized = [[images.resize(picture, size, height) for picture in pictures] for pictures in result.pictures]
            result = result._replace(pictures=np.array(resized))
        written = [path for number in range(1, len(result.sources) + 1) for path in self._save_face(result, number)]
        if whole:
            self._save_photos(result, whole)
            written += result.job.outputs
        return result._replace(written=tuple(written))

    def _save_face(self, result: Result, number: int) -> tuple[Path, ...]:
        """Write what is made of one source, and the source if that is asked for."""
        job, source = result.job.of_face(number, self.options), result.sources[number - 1]
        if job.changed:
            self.write(self.shown(source, source.shape), job.changed)
        if job.aligned:
            self.write(np.asarray(result.crops[number - 1].picture), job.aligned)
        if self.options.paste_back:
            return tuple(path for path in job.written if path not in job.outputs)
        pictures = self._beside(source, result.pictures[number - 1])
        face = number + (self.options.which or Choice()).first
        self._write_all(iter(pictures), job, face if result.crops else None, self.writers)
        self._animate(list(pictures))
        return job.written

    def _save_photos(self, result: Result, mask: Mask) -> None:
        """Write the photo once for each picture of its faces, with these in their places."""
        photo = open_photo(result.job.source)
        places = range(self.plan.application.count)
        # The last picture may be put into the photo itself: a copy of a large one takes as much memory again.
        kept = len(places) - 1 if not self.options.couple else len(places)
        photos = (photo.picture if place == kept else photo.picture.copy() for place in places)
        frames: Iterator[Image.Image] = (
            self._photo(photo.picture, made, result, place, mask) for place, made in zip(places, photos)
        )
        if self.options.gif or self.options.webp:
            pictures = list(frames)
            self._animate([np.asarray(picture) for picture in pictures])
            frames = iter(pictures)
        self._write_all(frames, result.job, None, 1, photo.profile)  # one at a time: photos are large

    def _photo(self, photo: Image.Image, made: Image.Image, result: Result, place: int, mask: Mask) -> Image.Image:
        """Put one picture of each face into `made`, a copy of the photo or itself; beside it with --couple, resized."""
        for crop, pictures in zip(reversed(result.crops), reversed(result.pictures)):  # the largest face last, on top
            lay(made, crop, Image.fromarray(pictures[place]), mask)
        if self.options.couple:
            made = Image.fromarray(sheets.couple(np.asarray(photo), np.asarray(made)))
        if self.options.size:
            made.thumbnail((self.options.size, self.options.size), Image.Resampling.LANCZOS)
        return made

    def _write_all(self, frames: Iterator[Any], job: Job, face: int | None, writers: int, profile: bytes = b"") -> None:
        """Save the pictures of a job, so many at a time."""

        def write(what: tuple[Any, Path, dict[str, Any]]) -> None:
            picture, path, how = what
            self.write(picture, path, self.note(job, how if face is None else {"face": face} | how), profile)

        if job.outputs:
            every = zip(frames, job.outputs, self.plan.application.notes, strict=True)
            for _ in parallel_map(write, every, writers, writers):
                pass

    def _animate(self, frames: Sequence[Pixels]) -> None:
        for animation in (self.options.gif, self.options.webp):
            if animation:
                with noticing(animation, self.replaced):
                    sheets.animate(frames, animation, self.options.quality or sheets.QUALITY)

    def _beside(self, source: Pixels, pictures: Pixels) -> Pixels:
        """Give the pictures of one source as they are saved, [N,H,W,3]: each beside it with --couple."""
        if not self.options.couple:
            return pictures
        lefts = [self.shown(one, pictures.shape[1:]) for one in self.plan.application.beside(source)]
        return np.stack([sheets.couple(left, right) for left, right in zip(lefts, pictures, strict=True)])

    def shown(self, source: Pixels, shape: tuple[int, ...]) -> Pixels:
        """Show one prepared input as a person sees it, [H,W,3] of `shape`."""
        return sheets.shown(source, self.pipeline.info.input, shape)

    def write(self, picture: Pixels | Image.Image, path: Path, note: str = "", profile: bytes = b"") -> None:
        """Save one picture as the options ask, and remember if it replaces what another run made."""
        if note and path.is_file() and not png.has_text(path, encoding.NOTE_KEY, note):
            self.replaced.append(path)
        encoding.save(picture, path, note, self.quality, self.level, profile)

    def note(self, job: Job | None, how: dict[str, Any]) -> str:
        """Say how a picture was made, as JSON for its text chunk. Files by name only: folders are nobody's business."""
        from psp_runtime import __version__

        info, options = self.pipeline.info, self.options
        note: dict[str, Any] = {
            "made_by": f"psp {__version__}",
            "engine": self.pipeline.session.path.name,
            "checkpoint": info.checkpoint,
            "task": info.task,
            "precision": info.precision,
            "computed": self.pipeline.precision,
            "application": self.plan.application.name,
        }
        note |= {"input": job.source.name} if job else {"inputs": len(self.plan.jobs)}
        note |= {name: getattr(options, name) for name in options.given(NOTED)}
        if options.mask:
            note["mask"] = Path(options.mask).name
        if info.iterations and self.plan.jobs[0].latents is None:  # latents are decoded in one step
            note["iterations"] = info.iterations
        if options.first:
            note["first"] = options.first.name
        return json.dumps(note | how)
