"""Folders of pictures on many machines: `psp run --ray` (docs/scale.md).

`driver` finds the pictures, deals them out in blocks and collects what became of them; each `worker` opens the engine
once and runs blocks as `psp run` would; `storage` is where files lie, on any filesystem; `manifest` says what is done.
Ray and pyarrow are imported when a run starts, never with the package: the extra `ray` brings both.
"""

from psp_runtime.cluster.driver import run

__all__ = ["run"]
