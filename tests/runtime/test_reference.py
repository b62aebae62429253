"""The reference in docs/reference is what `make reference` writes from the code as it is."""

import re
from pathlib import Path

import pytest
import reference
from reference_commands import COMMANDS, MAKERS, SHARED, app_of
from typer.main import get_command

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {path.name: text for path, text in reference.pages().items()}


@pytest.mark.parametrize("name", ["python.md", "commands.md"])
def test_the_reference_is_that_of_the_code(pages, name):
    stored = (ROOT / reference.FOLDER / name).read_text(encoding="utf-8")
    assert stored == pages[name], "run `make reference`"


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_spelled_as_typer_takes_them(pages, name):
    found = options(pages["commands.md"], name)
    if name in MAKERS:
        found |= options(pages["commands.md"], SHARED, lacking=f"`{name}`")
    params = get_command(app_of(COMMANDS[name])).params
    taken = {word for param in params for word in (*param.opts, *param.secondary_opts) if word.startswith("--")}
    assert found == taken


def options(page: str, heading: str, lacking: str = "nothing") -> set[str]:
    """Collect the options in the tables of a section, but for rows that are not of `lacking`."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", page, re.M | re.S).group(1)
    rows = [line for line in re.findall(r"^\| `-.+", section, re.M) if lacking not in line]
    return {word for line in rows for word in re.findall(r"--[\w-]+", line.split("` |")[0])}


def test_defaults_that_depend_on_the_machine_are_not_shown(pages):
    assert "one per core)" in pages["commands.md"]


def test_the_python_page_follows_names_to_where_they_are_defined():
    page = reference.python_page()
    assert "#### `Pipeline.mix`" in page
    assert "def read_info(path: str | Path) -> EngineInfo" in page
    with pytest.raises(SystemExit, match="psp_runtime has no nothing"):
        reference.find("psp_runtime", "nothing")
