"""What the documentation names is there: links, anchors, paths, modules, variables and messages."""

import ast
import re
import unicodedata
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "examples" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROOMS = ("psp_runtime", "psp_train", "psp_export", "benchmarks", "tools", "tests")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())

#: Characters GitHub keeps in an anchor: letters, marks, decimal digits and connectors.
ANCHOR = ("L", "M", "Nd", "Pc")


@each_page
def test_links_lead_to_files_and_headings_that_are_there(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        path, _, anchor = target.partition("#")
        if re.match(r"https?:", path):
            continue
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_the_index_names_every_page():
    index = ROOT / "docs" / "README.md"
    targets = {
        (index.parent / t.partition("#")[0]).resolve() for t in re.findall(r"\]\(([^)\s]+)\)", index.read_text())
    }
    pages = {*index.parent.glob("*.md"), *(index.parent / "reference").glob("*.md"), ROOT / "examples" / "README.md"}
    assert pages - {index} <= targets


@each_page
def test_paths_and_modules_are_there(page):
    text = page.read_text()
    for path in re.findall(rf"(?<![\w/.*-])(?:{'|'.join(ROOMS)}|docs|examples)/[\w./-]*\w(?![\w*…])", text):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"\bpsp_(?:runtime|train|export)(?:\.\w+)+", text):
        assert is_defined(name), name


@pytest.mark.parametrize("room", ROOMS)
def test_pages_that_the_code_names_are_there(room):
    for file in [*(ROOT / room).rglob("*.py"), *(ROOT / room).rglob("*.cu*")]:
        for path in re.findall(r"\bdocs/[\w/]+\.md", file.read_text()):
            assert (ROOT / path).is_file(), (file, path)


def test_every_variable_is_documented():
    documented = set(re.findall(r"`(PSP_[A-Z_]+)`", (ROOT / "docs" / "environment.md").read_text()))
    read = {name for room in ROOMS for file in (ROOT / room).rglob("*.py") for name in variables(file)}
    assert {"PSP_CACHE", "PSP_THREADS"} < read <= documented


def test_quoted_messages_are_those_of_the_code():
    quotes = re.findall(r"^\| `(.+?)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
    assert len(quotes) > 30
    for quote in quotes:
        parts = quote.split("…")
        pattern = re.compile(".*".join(map(re.escape, parts)), re.S)
        candidates = [text for text in messages() if all(part in text for part in parts)]  # a pattern is slow to search
        assert any(map(pattern.search, candidates)), quote


def test_decisions_are_complete_and_listed():
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()
    for page in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        for heading, record in re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", page.read_text(), re.M):
            if page.name != "README.md":
                assert f"- [{heading}]({page.name}#{anchor_of(heading)})" in index, heading
                assert re.search(r"^\*\*Decision:\*\* .+\n\n\*\*Why:\*\* ", record, re.M), heading


def without_code(text: str) -> str:
    """Leave out blocks and spans of code: what looks like a link in them is none."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


@cache
def anchors(page: Path) -> set[str]:
    """Collect the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    return set(map(anchor_of, re.findall(r"^#+ (.+)$", text, re.M)))


def anchor_of(heading: str) -> str:
    """Spell the anchor of a heading; of a link in it, its text counts."""
    words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower().replace(" ", "-")
    return "".join(c for c in words if c == "-" or unicodedata.category(c).startswith(ANCHOR))


def is_defined(name: str) -> bool:
    """Tell whether a dotted name is a module, or what a module's source defines or imports."""
    module, rest = name, ""
    while not source_of(module):
        module, _, last = module.rpartition(".")
        rest = rest or last
    return not rest or re.search(rf"\b{rest}\b", source_of(module)) is not None


@cache
def source_of(module: str) -> str:
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.read_text() if file.is_file() else ""


def variables(file: Path) -> set[str]:
    """Find the PSP_ variables that a module names."""
    return set(re.findall(r"\bPSP_[A-Z_]+\b", file.read_text()))


@cache
def messages() -> tuple[str, ...]:
    """Collect the texts in the packages; `…` stands for what is put in while they run."""
    files = [file for package in ROOMS[:3] for file in (ROOT / package).rglob("*.py")]
    return tuple(text for file in files for node in ast.walk(ast.parse(file.read_text())) for text in texts(node))


def texts(node: ast.AST) -> list[str]:
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)]
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
