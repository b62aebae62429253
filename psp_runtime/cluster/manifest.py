"""What is done: a Parquet dataset beside the outputs, one file for each finished block of pictures.

Columns: `path` of the picture, `status` "done" or "failed", `error` (why it failed), `seconds` (its share of the
block's), `finished` (when, Unix seconds), `size` and `modified` of the picture (bytes; ns), `engine` (SHA-256 of the
file), `options` (SHA-256 of what else shapes an output), `worker` (machine:process).
"""

import hashlib
import io
from dataclasses import asdict, dataclass
from typing import Any

from psp_runtime.cluster.storage import Picture, Place, import_extra
from psp_runtime.errors import PspError

FOLDER = "psp-manifest"
DONE, FAILED = "done", "failed"
#: What the next run reads of it.
COLUMNS = ["path", "status", "finished", "size", "modified", "engine", "options"]


@dataclass(frozen=True)
class Row:
    """One picture in the manifest; the columns are described above."""

    path: str
    status: str
    error: str
    seconds: float
    finished: float
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


def read(out: Place) -> list[dict[str, Any]]:
    """Read all its rows. Raises `PspError` for a manifest that cannot be read."""
    fs, dataset = import_extra("pyarrow.fs"), import_extra("pyarrow.dataset")
    try:
        if out.filesystem.get_file_info(out.path(FOLDER)).type == fs.FileType.NotFound:
            return []
        found = dataset.dataset(out.path(FOLDER), filesystem=out.filesystem, format="parquet")
        return list(found.to_table(columns=COLUMNS).to_pylist()) if found.files else []
    except OSError as error:
        raise PspError(f"cannot read {out.full_name(FOLDER)}: {error}") from error
    except ValueError as error:
        raise PspError(f"cannot read {out.full_name(FOLDER)} ({error}): delete it to do every picture again") from error


def done_before(pictures: list[Picture], rows: list[dict[str, Any]]) -> int:
    """Count the pictures that have outputs already, of whatever engine and options."""
    done = {row["path"] for row in rows if row["status"] == DONE}
    return sum(picture.path in done for picture in pictures)


def without_done(pictures: list[Picture], rows: list[dict[str, Any]], engine: str, options: str) -> list[Picture]:
    """Keep the pictures to make: not done, changed since, or done again with another engine or other options since."""
    last: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: float(row["finished"])):
        last[row["path"]] = row

    def is_done(picture: Picture) -> bool:
        row = last.get(picture.path, {})
        as_now = {"status": DONE, "size": picture.size, "modified": picture.modified, "engine": engine}
        return all(row.get(name) == value for name, value in {**as_now, "options": options}.items())

    return [picture for picture in pictures if not is_done(picture)]
