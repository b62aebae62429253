"""What stands around the code: README, package index, containers, citation and model card name what is there."""

import json
import re
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()
EXTRAS = set(re.findall(r"^(\w+) = \[", PYPROJECT.partition("optional-dependencies]")[2], re.M))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCKERFILES = ("Dockerfile", "Dockerfile.cuda")


def prose(text: str) -> list[str]:
    """The words that are read: no code, tables, pictures, captions, headings or addresses."""
    text = re.sub(r"^```.*?^```$|^\*[^*\n].*?\*$", "", text, flags=re.M | re.S)
    text = re.sub(r"^(?:\||!\[|#|<!--).*$", "", text, flags=re.M)
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).split()


def test_the_readme_is_read_in_half_a_minute() -> None:
    assert 60 <= len(prose(README.partition("## More")[0])) <= 110


@pytest.mark.parametrize(
    "words",
    [
        "psp-export --task inversion --fp16",
        "psp-run image.png --engine psp.trt",
        "python benchmarks/latency.py",
        "make demo",
        "make test",
    ],
)
def test_the_readme_keeps_its_commands(words: str) -> None:
    assert words in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_install_from_a_clone_and_extras_that_are_there(page: Path) -> None:
    text = page.read_text()
    assert "pip install psp-toolkit" not in text and "pip install 'psp-toolkit" not in text
    named = re.findall(r"pip install '\.\[([\w,]+)\]'", text)
    assert {extra for extras in named for extra in extras.split(",")} <= EXTRAS


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a package index shows, from the real build."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    (source / "psp_runtime" / "alignment").mkdir(parents=True)
    shutil.copytree(ROOT / "psp_runtime" / "alignment" / "models", source / "psp_runtime" / "alignment" / "models")
    code = "from setuptools import build_meta; print(build_meta.prepare_metadata_for_build_wheel('.'))"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (metadata,) = source.glob("*.dist-info/METADATA")
    head, _, text = metadata.read_text().partition("\n\n")
    assert "Description-Content-Type: text/markdown" in head and "Project-URL" not in head
    return text


def test_a_package_index_shows_no_link_to_a_file(description: str) -> None:
    assert [target for target in re.findall(r"\]\(([^)]+)\)", description) if not target.startswith("https:")] == []
    assert "psp-export --task inversion --fp16" in description and "published checkpoints, training" in description


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfiles_copy_and_install_what_is_there(name: str) -> None:
    parser = pytest.importorskip("dockerfile_parse").DockerfileParser(fileobj=BytesIO((ROOT / name).read_bytes()))
    steps = [(step["instruction"], step["value"]) for step in parser.structure if step["instruction"] != "COMMENT"]
    stages = {value.partition(" AS ")[2] for kind, value in steps if kind == "FROM"}
    for kind, value in steps:
        if kind == "COPY" and not value.startswith("--from="):
            assert all((ROOT / source).exists() for source in value.split()[:-1]), value
        if kind == "COPY" and value.startswith("--from="):
            assert value.split()[0].removeprefix("--from=") in stages
    given = dict(value.split("=", 1) for kind, value in steps if kind == "ARG" and "=" in value)
    installed = re.findall(r"\.\[(.+?)\]", "".join(value for kind, value in steps if kind == "RUN"))
    extras = ",".join(given.get(one.strip("${}"), one) for one in installed).split(",")
    assert extras and set(extras) <= EXTRAS


def test_dockerfiles_find_in_their_context_what_they_copy() -> None:
    """`.dockerignore` leaves everything out but what it names after an exclamation mark."""
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name in DOCKERFILES:
        for sources in re.findall(r"^COPY (?!--)(.+) \S+$", (ROOT / name).read_text(), re.M):
            assert set(sources.split()) <= kept


def test_the_citation_is_of_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert f'version = "{citation["version"]}"' in PYPROJECT
    (paper,) = citation["references"]
    bibtex = README.partition("```bibtex")[2]
    assert paper["title"] in bibtex and str(paper["year"]) in bibtex
    for author in paper["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in bibtex


def test_the_model_card_has_the_numbers_that_were_measured() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "demo_tasks.json").read_text())["results"]
    card = (ROOT / "docs" / "model_card.md").read_text()
    rows = re.findall(r"^\| (\w+) \| `(\w+)` \| ([\d.]+) \| ([\d.]+) \|$", card, re.M)
    assert {row[0] for row in rows} == results.keys()
    for task, number, *written in rows:
        for words, name in zip(written, (number, f"mean_face_{number}"), strict=True):
            digits = len(words.partition(".")[2])
            assert words == f"{results[task][name]:.{digits}f}", f"{task}: {name}"
