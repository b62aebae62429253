"""The plan of the house: imports run one way, rooms stay small, functions take few parameters (CONTRIBUTING.md)."""

import ast
from collections import defaultdict
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("psp_runtime", "psp_train", "psp_export")
#: Whose functions take at most so many parameters; torch calls those of autograd with as many as there are.
FEW_PARAMETERS, MOST_PARAMETERS = ("psp_train", "psp_export"), 6


def name_of(file: Path) -> str:
    """psp_runtime.engines.info; a package is called as its folder."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for package in PACKAGES for file in (ROOT / package).rglob("*.py")}


def imported(tree: ast.AST) -> set[str]:
    """Modules of ours that a file imports anywhere: at its top, inside of functions, under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found & MODULES.keys()


@cache
def imports() -> dict[str, set[str]]:
    """What each module of ours imports of ours."""
    return {name: imported(ast.parse(file.read_text())) - {name} for name, file in MODULES.items()}


def room_of(module: str) -> str:
    """The folder of a package a module lies in; one at the top of a package is a room of its own."""
    top, *below = module.split(".")
    return f"{top}.{below[0]}" if below else f"{top}.__init__"


def test_no_import_goes_round_in_a_circle() -> None:
    list(TopologicalSorter(imports()).static_order())  # raises CycleError, which names the circle


def test_no_room_imports_one_above_it() -> None:
    rooms: dict[str, set[str]] = defaultdict(set)
    for module, targets in imports().items():
        rooms[room_of(module)] |= {room_of(target) for target in targets} - {room_of(module)}
    list(TopologicalSorter(rooms).static_order())


def test_packages_import_one_way() -> None:
    order = {package: number for number, package in enumerate(PACKAGES)}
    for module, targets in imports().items():
        upwards = [target for target in targets if order[target.split(".")[0]] > order[module.split(".")[0]]]
        assert not upwards, f"{module} imports {upwards}"


def test_rooms_stay_small() -> None:
    folders = [ROOT / name for name in (*PACKAGES, "benchmarks", "tools", "tests")]
    folders += [folder for top in folders for folder in top.rglob("*") if folder.is_dir()]
    for folder in folders:
        modules = [file.name for file in folder.glob("*.py") if not file.name.startswith("__")]
        assert len(modules) <= 16, f"{folder.relative_to(ROOT)} holds {len(modules)} modules"
    assert len(list((ROOT / "psp_runtime").glob("*.py"))) <= 14


@pytest.mark.parametrize("package", FEW_PARAMETERS)
def test_functions_take_few_parameters(package: str) -> None:
    for module, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if module.startswith(package) and isinstance(node, ast.FunctionDef) and not is_command(node):
                names = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                given = [name for name in names if name not in ("self", "cls", "ctx")]
                assert len(given) <= MOST_PARAMETERS, f"{module}.{node.name} takes {given}"


def is_command(node: ast.FunctionDef) -> bool:
    """Whether typer calls it: its parameters are the command's options."""
    return any("command" in ast.unparse(decorator) for decorator in node.decorator_list)
