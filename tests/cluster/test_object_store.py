"""Folders in an object store: a real S3 API on this machine (moto), asked by pyarrow as it asks Amazon's."""

import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runs import PspRun
from cluster_runs import contents, errors, free_port, wait_for, write_pictures
from tiny_engines import write_onnx

fs = pytest.importorskip("pyarrow.fs", reason="pyarrow is not installed: pip install '.[ray]'")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install '.[ray]'")

MOTO = Path(sys.executable).with_name("moto_server")
pytestmark = pytest.mark.skipif(not MOTO.is_file(), reason="no S3 server: pip install 'moto[s3]' flask flask-cors")


class Store:
    """The server: its `address`, and a `bucket` in it, for pyarrow."""

    def __init__(self, port: int, log: Path) -> None:
        self.address, self._log = f"127.0.0.1:{port}", log
        self.bucket, _ = fs.FileSystem.from_uri(self.uri("bucket").replace("?", "?allow_bucket_creation=true&"))
        self.bucket.create_dir("bucket")

    def uri(self, path: str) -> str:
        """A URI with keys and the server's address, so that workers need no environment."""
        return f"s3://key:secret@{path}?scheme=http&endpoint_override={self.address}&region=us-east-1"

    def upload(self, folder: Path, root: str) -> None:
        """Every file of a folder, with its name and sub-folder."""
        for path in folder.rglob("*.*"):
            with self.bucket.open_output_stream(f"{root}/{path.relative_to(folder)}") as stream:
                stream.write(path.read_bytes())

    def download(self, root: str) -> dict[str, bytes]:
        """Every object below a root, by name."""
        found = self.bucket.get_file_info(fs.FileSelector(root, recursive=True))
        names = [one.path for one in found if one.is_file]
        return {name.removeprefix(f"{root}/"): self.bucket.open_input_file(name).read() for name in names}

    def requests(self, start: str) -> list[str]:
        """The requests so far that start so: the rest of each, in order."""
        return re.findall(rf'"\W*(?:\[\d+m)*{start}(.*?) HTTP', self._log.read_text())

    def check_keys(self) -> None:
        """From now on the server refuses keys it does not know, as ours."""
        plain = {"Content-Type": "text/plain"}
        asked = urllib.request.Request(f"http://{self.address}/moto-api/reset-auth", b"0", plain)
        urllib.request.urlopen(asked).close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    port, log = free_port(), tmp_path / "moto.log"
    with log.open("w") as output:
        command = [str(MOTO), "-H", "127.0.0.1", "-p", str(port)]
        with subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
            wait_for(port)
            yield Store(port, log)
            process.terminate()


def test_a_folder_in_an_object_store(
    store: Store,
    workers_here: None,
    psp_run: PspRun,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = ["--engine", write_onnx(tmp_path / "psp.onnx")]
    write_pictures(tmp_path / "photos" / "sub ä=1%20", 2)
    write_pictures(tmp_path / "photos" / "other", 3)
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"no picture")
    store.upload(tmp_path / "photos", "bucket/photos")

    photos, out = store.uri("bucket/photos"), store.uri("bucket/out")
    code, printed, err = psp_run(photos, *engine, "--out", out, "--ray")
    assert (code, printed.startswith("5 pictures in ")) == (1, True)
    assert any(one.startswith("error: cannot read s3://bucket/photos/bad.jpg: not a pic") for one in errors(err))

    there = store.download("bucket/out")
    parts = {name for name in there if name.startswith("psp-manifest/")}
    for folder in ("other", "sub ä=1%20"):
        assert psp_run(f"photos/{folder}", *engine, "--out", f"plain/{folder}")[0] == 0
    assert {name: data for name, data in there.items() if name not in parts} == contents(tmp_path / "plain")
    puts = store.requests("PUT /bucket/out")
    assert len(puts) == len(set(puts)) == len(there), "one put for each output: no markers of folders, no parts"
    assert not store.requests("POST /bucket/out")

    rows = [
        row for part in parts for row in parquet.read_table(f"bucket/out/{part}", filesystem=store.bucket).to_pylist()
    ]
    assert sorted((row["path"], row["status"]) for row in rows if row["status"] != "done") == [
        ("s3://bucket/photos/bad.jpg", "failed")
    ]
    assert len(rows) == 6 and "secret" not in str(rows)

    store.bucket.delete_file("bucket/photos/bad.jpg")
    assert psp_run(photos, *engine, "--out", out, "--ray") == (
        0,
        "nothing to do, 5 done before: s3://bucket/out/\n",
        "",
    )
    assert store.requests("PUT /bucket/out") == puts


def test_mistakes_about_buckets_are_one_line(
    store: Store,
    psp_run: PspRun,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Found before Ray is started: there is none at the address."""
    write_pictures(tmp_path / "photos", 1)
    store.upload(tmp_path / "photos", "bucket/photos")
    photos, none = store.uri("bucket/photos"), store.uri("none/photos")
    how = ["--engine", write_onnx(tmp_path / "psp.onnx"), "--ray", "127.0.0.1:1"]
    told = "error: cannot read s3://none/photos: no such file or folder\n"
    assert psp_run(none, *how, "--out", photos) == (2, "", told)
    told = "error: cannot write into s3://none/photos: there is no bucket none, make it first\n"
    assert psp_run(photos, *how, "--out", none) == (2, "", told)
    store.check_keys()
    code, printed, err = psp_run(photos, *how, "--out", photos)
    assert (code, printed, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: cannot read s3://bucket/photos: ") and "ACCESS_DENIED" in err
