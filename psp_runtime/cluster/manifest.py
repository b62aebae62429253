"""What is done: a Parquet dataset beside the outputs, one file for each finished block of pictures.

Columns: `path` of the picture, `status` "done" or "failed", `error` (why it failed), `seconds` (its share of the
block's), `size` and `modified` of the picture (bytes; ns), `engine` (SHA-256 of the file), `options` (SHA-256 of what
else shapes an output), `worker` (machine:process).
"""

import hashlib
import io
from dataclasses import asdict, dataclass
from typing import Any

from psp_runtime.cluster.storage import Picture, Place, import_extra
from psp_runtime.errors import PspError

FOLDER = "psp-manifest"
DONE, FAILED = "done", "failed"


@dataclass(frozen=True)
class Row:
    """One picture in the manifest; the columns are described above."""

    path: str
    status: str
    error: str
    seconds: float
    size: int
    modified: int
    engine: str
    options: str
    worker: str


def write(out: Place, rows: list[Row]) -> None:
    """Add the file of a finished block. Doing a block again, because its worker died, writes the same file again."""
    pa, parquet = import_extra("pyarrow"), import_extra("pyarrow.parquet")
    block = hashlib.sha256("\n".join([rows[0].engine, rows[0].options, *(row.path for row in rows)]).encode())
    encoded = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist([asdict(row) for row in rows]), encoded)
    out.write(f"{FOLDER}/{block.hexdigest()[:32]}.parquet", encoded.getvalue())


def read(out: Place, engine: str, options: str) -> list[dict[str, Any]]:
    """Its rows about this engine and these options. Raises `PspError` for a manifest that cannot be read."""
    fs, dataset = import_extra("pyarrow.fs"), import_extra("pyarrow.dataset")
    if out.filesystem.get_file_info(out.path(FOLDER)).type == fs.FileType.NotFound:
        return []
    try:
        found = dataset.dataset(out.path(FOLDER), filesystem=out.filesystem, format="parquet")
        same = (dataset.field("engine") == engine) & (dataset.field("options") == options)
        return list(found.to_table(filter=same).to_pylist()) if found.files else []
    except (OSError, ValueError, KeyError) as error:
        raise PspError(f"cannot read {out.full_name(FOLDER)} ({error}): delete it to do every picture again") from error


def without_done(pictures: list[Picture], rows: list[dict[str, Any]]) -> list[Picture]:
    """The pictures that are not done, or have changed since."""
    done = {(row["path"], row["size"], row["modified"]) for row in rows if row["status"] == DONE}
    return [one for one in pictures if (one.path, one.size, one.modified) not in done]
