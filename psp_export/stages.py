"""Show the progress of an export on stderr, one line for each stage of the work."""

import shutil
import sys
import time

from psp_runtime import console


class Stages:
    """The progress on stderr: each stage as it begins, with the time it took once the next one does.

    Use it as a context: at the end it prints the total, or, on a terminal, leaves the line of the stage that failed.
    """

    def __init__(self) -> None:
        self.start = self.begun = time.perf_counter()
        self.running = ""

    def __enter__(self) -> "Stages":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not console.shows_progress():
            return
        if kind is None:
            self._finish()
            print(f"{time.perf_counter() - self.start:6.1f} s in total", file=sys.stderr)
        elif self.running and sys.stderr.isatty():
            print(file=sys.stderr)  # else the error would be written over it

    def __call__(self, stage: str, detail: str = "") -> None:
        """Begin a stage or, with the same words again, show what happens in it: `detail`, on a terminal only.

        Raises the `KeyboardInterrupt` that a library swallowed in the stage before.
        """
        if stage != self.running:
            console.end_if_interrupted()
            self._finish()
            self.running, self.begun = stage, time.perf_counter()
        if sys.stderr.isatty() and console.shows_progress():
            words = f"{stage}: {detail}" if detail else stage
            print(_one_row(f"  ...    {words}"), end="\r", file=sys.stderr, flush=True)

    def _finish(self) -> None:
        if self.running and console.shows_progress():
            if sys.stderr.isatty():
                print(_one_row(""), end="\r", file=sys.stderr)
            took = time.perf_counter() - self.begun
            print(f"{took:6.1f} s {console.printable(self.running)}", file=sys.stderr, flush=True)
        self.running = ""


def _one_row(text: str) -> str:
    """Cut and fill a text to one row of the terminal, so that it covers the last one and can be covered itself."""
    width, text = shutil.get_terminal_size().columns - 1, console.printable(text)
    return f"{text[:width]:{width}}"
