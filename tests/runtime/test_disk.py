"""Unfinished files and folders: kept as long as somebody works on them, deleted after a kill."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from psp_runtime import disk
from psp_runtime.disk import delete_unfinished, exchange, replacing, scratch_folder

WORKING = """
import sys, time
from pathlib import Path
from psp_runtime.disk import replacing, scratch_folder
home = Path(sys.argv[1])
with scratch_folder(home, "test") as folder, replacing(home / "result") as file:
    (folder / "part").write_bytes(b"half")
    file.write(b"half")
    file.flush()
    print("ready", flush=True)
    time.sleep(60)
"""


def unfinished(home: Path) -> list[Path]:
    return sorted(path for path in home.iterdir() if path.name.startswith("."))


def test_what_a_killed_process_left_is_deleted_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WORKING, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"ready\n"
    (tmp_path / ".hidden").write_bytes(b"a user's")
    (tmp_path / ".12-34.tmp.png").write_bytes(b"a user's")
    delete_unfinished(tmp_path)
    assert len(unfinished(tmp_path)) == 4
    process.kill()
    process.wait()
    delete_unfinished(tmp_path)
    assert [path.name for path in unfinished(tmp_path)] == [".12-34.tmp.png", ".hidden"]
    assert not (tmp_path / "result").exists()


def test_a_link_of_such_a_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"precious")
    (tmp_path / ".psp-export-1-abc").symlink_to(tmp_path / "elsewhere")
    (tmp_path / ".1-1.tmp").symlink_to(tmp_path / "elsewhere" / "file")
    delete_unfinished(tmp_path)
    delete_unfinished(tmp_path / "none")
    assert (tmp_path / "elsewhere" / "file").read_bytes() == b"precious" and len(unfinished(tmp_path)) == 2


def test_many_threads_write_while_others_delete(tmp_path: Path) -> None:
    stop = threading.Event()

    def delete() -> None:
        while not stop.is_set():
            delete_unfinished(tmp_path)

    deleting = threading.Thread(target=delete)
    deleting.start()
    try:
        for number in range(300):
            with replacing(tmp_path / f"{number % 7}") as file:
                file.write(str(number).encode())
            with scratch_folder(tmp_path, "test") as folder:
                (folder / "part").write_bytes(b"")
    finally:
        stop.set()
        deleting.join()
    assert {int(path.read_bytes()) for path in tmp_path.iterdir()} == set(range(293, 300))


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(disk.fcntl, "flock", refuse)
    (tmp_path / ".1-1.tmp").write_bytes(b"of somebody")
    with replacing(tmp_path / "result") as file:
        file.write(b"whole")
    delete_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".1-1.tmp", "result"]


@pytest.mark.parametrize("at_once", [True, False])
def test_folders_change_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    if not at_once:
        monkeypatch.setattr(disk, "_exchange_at_once", lambda first, second: False)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "file").read_text() == "b" and (tmp_path / "b" / "file").read_text() == "a"
    with pytest.raises(OSError):
        exchange(tmp_path / "a", tmp_path / "none")
    assert (tmp_path / "a" / "file").read_text() == "b" and len(list(tmp_path.iterdir())) == 2


def test_durable_files_reach_the_disk_before_and_after_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda place: (done.append("fsync"), fsync(place)))
    monkeypatch.setattr(os, "replace", lambda *places: (done.append("replace"), replace(*places)))
    with replacing(tmp_path / "a", durable=True) as file:
        file.write(b"a")
    with replacing(tmp_path / "b") as file:
        file.write(b"b")
    assert done == ["fsync", "replace", "fsync", "replace"]
