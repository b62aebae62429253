"""Every command of the documentation: each is read as its command line would be, and all that can run here are run."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import gallery
import photos
import pytest
import typer

from psp_runtime.run.values import parse_classes, parse_layers, parse_strengths
from psp_train.recipes import parse_overrides

ROOT = Path(__file__).parents[2]
README, MANUAL, GALLERY = ROOT / "README.md", ROOT / "docs" / "manual.md", ROOT / "docs" / "gallery.md"
#: Pages whose blocks show commands; those of the reference show how commands are spelled.
EXAMPLES = ROOT / "examples" / "README.md"
PAGES = [README, EXAMPLES, *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name != "reference")]
#: Each program and the function it calls.
PROGRAMS = dict(re.findall(r'^(psp[\w-]*) = "([\w.]+:\w+)"$', (ROOT / "pyproject.toml").read_text(), re.M))
#: Pages that are tried after the manual.
OTHERS = [page for page in PAGES if page not in (README, EXAMPLES, MANUAL, GALLERY)]
IS_COMMAND = re.compile(rf"(?:{'|'.join(PROGRAMS)})(?= |$)")

#: Lines that are not run: what is in them, and why.
NOT_RUN = {
    r"^pip install": "changes this Python",
    r"psp_ffhq_encode\.pt|stylegan2-ffhq|pretrained/|runs/inv": "published weights",
    r"^torchrun|--target faces/|TASK": "data of your own, left out in part",
    r"e4e|restyle|mine\.pt": "checkpoints and directions of others",
    r"s3://": "a bucket and a cluster",
    r"runs/sketch": "600 steps of training, about 20 minutes",
}
#: Lines that run until Ctrl-C, and how many seconds they may take to answer: psp ui exports six engines first.
SERVERS = {r"^psp serve": ("8000", 120), r"^psp ui": ("7860", 900)}
#: Lines that may warn: what is in them, and of what.
MAY_WARN = {r"psp\.trt": "there is no GPU", r"--align|psp align": "faces of a scene are small, and several"}
#: Lines that make what a page takes for granted, besides what the manual's lines have made.
GIVEN = {
    "photos": [
        "rm -r photos && mkdir photos && psp sample photos/1.png --kind scene",
        "psp sample holiday.jpg --kind scene && psp sample old.jpg --kind scene --seed 1",
        "cp hair.npy smile.npy && cp super_resolution.onnx sr.onnx && cp psp.onnx inversion.onnx",
    ],
    "serving": ["psp sample photo.png && psp sample a.png --seed 1"],
}
#: What is read later than the command line, for want of an engine: here for the published 1024² and 19 classes.
READ_LATER: dict[str, Callable[[Any], Any]] = {
    "strength": parse_strengths,
    "layers": lambda text: parse_layers(text, 18),
    "classes": lambda text: parse_classes(text, 19),
    "set_": parse_overrides,
}


def blocks(text: str, language: str = "") -> list[str]:
    """Collect the blocks of code of a page; those of commands name no language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [block for named, block in found if named == language]


def commands(page: Path) -> list[str]:
    """Collect the commands in the blocks of a page, in order, also in lines of several and in loops."""
    lines = "".join(blocks(page.read_text(encoding="utf-8"))).splitlines()
    lines = [re.sub(r"\s+#.*", "", line) for line in lines]
    parts = [part for line in lines for part in re.split(r"; (?:do )?", line)]
    return [part for part in parts if IS_COMMAND.match(part)]


def program(name: str) -> Callable[[], Any]:
    """Import the function that a program calls."""
    module, _, function = PROGRAMS[name].partition(":")
    return getattr(import_module(module), function)


ALL = list(dict.fromkeys(command for page in PAGES for command in commands(page)))


@pytest.fixture
def only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands read what they are given and do nothing."""
    made = typer.main.get_command

    def get_command(app: typer.Typer) -> Any:
        command = made(app)
        for one in (command, *getattr(command, "commands", {}).values()):
            one.callback = read_rest
        return command

    monkeypatch.setattr(typer.main, "get_command", get_command)


def read_rest(**given: Any) -> None:
    """Read what a command reads once it has an engine, and see that it is given inputs and one engine."""
    for name, read in READ_LATER.items():
        if given.get(name):
            read(given[name])
    if "url" in given:
        assert given["inputs"], "no inputs"
        assert (str(given["engine"] or ".") != ".") != bool(given["url"]), "not one of --engine and --url"


@pytest.mark.parametrize("command", ALL)
def test_commands_are_read(command: str, only_read: None, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    words = shlex.split(re.sub(r"\$\w+", "1", command.replace(" …", "")))
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        program(words[0])()
    assert not end.value.code, capsys.readouterr().err


def test_the_commands_of_the_pages_are_found() -> None:
    assert {"README.md", "manual.md", "gallery.md", "scale.md", "serving.md", "training.md", "ui.md"} <= {
        page.name for page in PAGES if commands(page)
    }
    verbs = {command.split()[1] for command in ALL if command.startswith("psp ")}
    assert verbs > {"run", "mix", "morph", "transfer", "edit", "swap", "decode", "direction", "export", "sample"}


def test_the_gallery_has_the_commands_that_make_it() -> None:
    assert commands(GALLERY) == [gallery.command(name) for name in gallery.SHEETS]


def lines_to_try(page: Path) -> list[str]:
    """Collect the lines of a page's blocks of commands."""
    return list(filter(None, "".join(blocks(page.read_text(encoding="utf-8"))).splitlines()))


def python_lines(page: Path) -> list[str]:
    """Spell the Python blocks of a page as lines to run."""
    found = blocks(page.read_text(encoding="utf-8"), "python")
    return [f"{shlex.quote(sys.executable)} -c {shlex.quote(block)}" for block in found]


def not_run(line: str) -> str:
    """Say why a line is not run; empty where it is."""
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, line)), "")


def test_every_reason_not_to_run_a_line_is_needed() -> None:
    lines = [*lines_to_try(README), *lines_to_try(MANUAL), *ALL]
    for pattern in (*NOT_RUN, *SERVERS, *MAY_WARN):
        assert any(re.search(pattern, line) for line in lines), pattern
    assert GIVEN.keys() <= {page.stem for page in PAGES}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page.read_text(), "python")], ids=lambda page: page.stem
)
def test_python_blocks_are_python(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8"), "python"):
        compile(block, page.name, "exec")  # raises SyntaxError


def promised(line: str) -> set[str]:
    """Name the files that a line says it makes: in its options, and after the arrow of its comment."""
    command, _, comment = line.partition(" #")
    named = re.findall(r"--(?:out|grid|gif|webp|save-latents|triton) (\S+)|psp sample ([\w./]+)", command)
    engines = [f"{name}.onnx" for name in re.findall(r"--output (\S+)", command)]
    return {*filter(None, sum(named, ())), *engines, *re.findall(r"[\w./]+\.\w+", comment.partition("->")[2])} - {""}


def contents(folder: Path) -> dict[Path, tuple[int, int]]:
    """List the files below a folder with their time and size."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


class Shell(NamedTuple):
    """Runs lines in a folder, where our programs are those of this checkout."""

    folder: Path
    variables: dict[str, str]

    def run(self, line: str) -> None:
        """Run a line; it must not fail, nor warn of anything that is not to be expected."""
        how = dict(cwd=self.folder, env=self.variables, capture_output=True, text=True)
        done = subprocess.run(["bash", "-c", line], **how)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        expected = any(re.search(pattern, line) for pattern in MAY_WARN)
        assert expected or "warning:" not in done.stderr, f"{line}\n{done.stderr}"

    def copied(self, name: str) -> "Shell":
        """Go on in a copy of the folder, with what was made so far."""
        folder = self.folder.parent / name
        shutil.copytree(self.folder, folder)
        return self._replace(folder=folder)

    @contextmanager
    def serving(self, line: str, port: str, seconds: int) -> Iterator[None]:
        """Run a line until the block ends, once it answers at its port; Ctrl-C must end it."""
        words = shlex.split(line.partition(" #")[0])
        server = subprocess.Popen(words, cwd=self.folder, env=self.variables, start_new_session=True)
        try:
            wait_for(lambda: answers(port) or server.poll() is not None, seconds)
            assert server.poll() is None, f"{line} has ended"
            yield
            os.killpg(server.pid, signal.SIGINT)
            server.wait(60)
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)


def answers(port: str) -> bool:
    """Whether somebody listens at a port of this machine."""
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", int(port))) == 0


def wait_for(condition: Callable[[], bool], seconds: int) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Make an empty folder, and our programs in another one."""
    programs, work = tmp_path_factory.mktemp("programs"), tmp_path_factory.mktemp("work")
    for name, place in PROGRAMS.items():
        module, _, function = place.partition(":")
        call = f"if __name__ == '__main__':\n    {function}()\n"  # as pip writes it; processes of psp serve import this
        (programs / name).write_text(f"#!{sys.executable}\nfrom {module} import {function}\n\n{call}")
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    return Shell(work, os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)})


def folder_of(page: Path) -> str:
    """Name the folder a page is tried in: several pages are a README."""
    return page.relative_to(ROOT).with_suffix("").as_posix().replace("/", "-")


def run_all(shell: Shell, lines: list[str], check: Callable[[str], AbstractContextManager[None]]) -> None:
    """Run lines in order; a server goes on until the next one, or to the end."""
    with ExitStack() as servers:
        for line in filter(lambda line: not not_run(line), lines):
            if how := next((how for pattern, how in SERVERS.items() if re.search(pattern, line)), None):
                servers.close()
                servers.enter_context(shell.serving(line, *how))
                continue
            with check(line):
                shell.run(line)


@pytest.mark.readme
@pytest.mark.parametrize("page", [README, MANUAL], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_lines_of_readme_and_manual_run_as_written(shell: Shell, page: Path) -> None:
    here = shell if page == MANUAL else shell.copied(folder_of(page))

    @contextmanager
    def check(line: str) -> Iterator[None]:
        before = contents(here.folder)
        yield
        after = contents(here.folder)
        changed = [path for path in before if after.get(path) != before[path]]
        assert not changed or "--resume" in line, f"{line} changes an earlier file"  # a run that goes on does
        for name in promised(line):
            path = here.folder / name
            assert path.exists() and path not in before, f"{line} does not make {name}"

    run_all(here, [*lines_to_try(page), *python_lines(page)], check)


@pytest.mark.readme
@pytest.mark.parametrize(
    "page", [page for page in PAGES[1:] if page not in (MANUAL, GALLERY)], ids=lambda page: page.stem
)
def test_the_commands_of_a_page_run_after_those_of_the_manual(shell: Shell, page: Path) -> None:
    lines = [line for line in [*commands(page), *python_lines(page)] if not not_run(line)]
    if lines:
        here = shell.copied(folder_of(page))
        if page.stem == "photos":
            photos.draw_photos(here.folder)
        run_all(here, [*GIVEN.get(page.stem, []), *lines], lambda line: nullcontext())


@pytest.mark.readme
@pytest.mark.parametrize("name", gallery.SHEETS)
def test_the_commands_of_the_gallery_make_its_sheets(shell: Shell, name: str) -> None:
    here = shell.folder / "gallery"
    if not here.exists():
        here.mkdir()
        gallery.draw_inputs(here)
    engine = gallery.exported(gallery.SHEETS[name][1], here)
    if name in gallery.PROPERTIES:
        gallery.learn(name, engine, here)
    Shell(here, shell.variables).run(gallery.command(name))
    assert (here / f"{name}.png").is_file()
