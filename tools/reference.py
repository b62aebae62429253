"""`make reference`: the Python API and the commands as Markdown, made from the code -> docs/reference/*.md.

    python tools/reference.py

`python.md` is read from the sources without importing them, so it needs no PyTorch. `reference_commands.py` makes
`commands.md` from the typer objects of the commands. A test compares both files with what this writes.
"""

import ast
import re
import textwrap
from functools import cache
from pathlib import Path

from reference_commands import commands_page, prose

ROOT = Path(__file__).parent.parent
FOLDER = Path("docs/reference")

#: Headings, and below each its definitions: MODULE:NAME, or MODULE alone for its public functions.
API = {
    "Opening an engine": ("psp_runtime:load", "psp_runtime:read_info"),
    "Pictures and latents": ("psp_runtime.pictures.decoding:Picture", "psp_runtime.pipeline:Source"),
    "The pipeline": ("psp_runtime:Pipeline", "psp_runtime:Translation"),
    "Whole photos": tuple(
        f"psp_runtime.alignment:{name}"
        for name in ("find", "crop", "paste", "quad", "open_photo", "Face", "Crop", "Photo")
    ),
    "What an engine says about itself": ("psp_runtime:EngineInfo",),
    "Errors": tuple(f"psp_runtime:{name}Error" for name in ("Psp", "Picture", "Engine", "Device")),
    "Served engines": ("psp_runtime.serving.client:connect",),
    "Arithmetic of latents": ("psp_runtime.latents",),
    "Directions": (
        "psp_runtime.arrays.directions:read_direction",
        *(f"psp_runtime.directions:{name}" for name in ("fit_direction", "Direction", "semantics")),
    ),
    "Checkpoints": (
        *(f"psp_train.checkpoints.psp:{name}" for name in ("load_checkpoint", "load_demo_checkpoint", "Checkpoint")),
        *(f"psp_train.checkpoints.generators:{name}" for name in ("load_generator", "with_generator")),
    ),
    "Export": tuple(f"psp_export.export:{name}" for name in ("export", "Options", "Written")),
}
INTRODUCTION = """\
# Python API

Written by `make reference` from the docstrings: change those, not this file.

`psp_runtime` runs without PyTorch; `psp_train` and `psp_export` need it.
Shapes: B pictures, N styles or steps, L styles of an engine, S style dim, H and W size of the output.
"""
#: Methods that belong to an interface in spite of their names.
SPECIAL = ("__call__",)

Definition = ast.FunctionDef | ast.ClassDef | ast.Assign


def main() -> None:
    (ROOT / FOLDER).mkdir(exist_ok=True)
    for path, text in pages().items():
        (ROOT / path).write_text(text, encoding="utf-8")
        print(path)


def pages() -> dict[Path, str]:
    """Make the text of each file of the reference."""
    return {FOLDER / "python.md": python_page(), FOLDER / "commands.md": commands_page()}


def python_page() -> str:
    """Write the definitions of API as Markdown, with signatures and docstrings."""
    lines = [INTRODUCTION]
    for heading, places in API.items():
        lines.append(f"## {heading}\n")
        for module, _, name in (place.partition(":") for place in places):
            for one in [name] if name else public_functions(module):
                lines += described(module, one)
    return "\n".join(lines)


def public_functions(module: str) -> list[str]:
    """List the functions of a module that are for others, in their order; those that only check are not."""
    names = [node.name for node in tree(module).body if isinstance(node, ast.FunctionDef)]
    return [name for name in names if not name.startswith(("_", "check"))]


def described(module: str, name: str) -> list[str]:
    """Write a definition and, of a class, its public members, as Markdown."""
    node, text = find(module, name)
    lines = section(f"### `{module}.{name}`", declaration(node, text), words(node, text))
    for member, spellings in members(node).items():
        shown = "\n".join(declaration(one, text) for one in spellings[:-1] or spellings)
        lines += section(f"#### `{name}.{member}`", shown, words(spellings[-1], text))
    return lines


def section(heading: str, code: str, docstring: str) -> list[str]:
    return [f"{heading}\n", f"```python\n{code}\n```\n", prose(docstring)]


def find(module: str, name: str) -> tuple[Definition, str]:
    """Find a definition and the source it is in, through the imports of packages that pass it on."""
    for node in statements(module):
        named = ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else getattr(node, "name", "")
        if isinstance(node, Definition) and named == name:
            return node, source(module)
        if isinstance(node, ast.ImportFrom) and node.module and name in [alias.name for alias in node.names]:
            return find(node.module, name)
    raise SystemExit(f"{module} has no {name}: correct API in tools/reference.py")


def statements(module: str) -> list[ast.stmt]:
    """List the statements of a module, with those under an `if`: imports for type checkers stand there."""
    return [inner for node in tree(module).body for inner in (node.body if isinstance(node, ast.If) else [node])]


def members(node: Definition) -> dict[str, list[ast.FunctionDef]]:
    """Collect the public methods and properties of a class by name; of an overload all, the implementation last."""
    found: dict[str, list[ast.FunctionDef]] = {}
    for method in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(method, ast.FunctionDef) and (method.name in SPECIAL or not method.name.startswith("_")):
            found.setdefault(method.name, []).append(method)
    return found


def declaration(node: Definition, text: str) -> str:
    """Spell a definition as its source does: an alias whole, a class with its fields, a function's signature."""
    if isinstance(node, ast.Assign):
        return segment(text, node, node)
    if isinstance(node, ast.ClassDef):
        return class_declaration(node, text)
    # A body on the line of the signature is `...`; an overload is spelled so.
    signature = segment(text, node, node.body[0]).rpartition(":")[0]
    signature = re.sub(r"\((\s*)(?:self|cls)(?:,\s+|(?=\)))", r"(\1", signature, count=1)
    signature = re.sub(r'-> "([\w.]+)"$', r"-> \1", signature)  # quoted where the name is imported later
    if any(ast.unparse(decorator) == "property" for decorator in node.decorator_list):
        return signature.removeprefix("def ").replace("() -> ", ": ")
    return signature


def class_declaration(node: ast.ClassDef, text: str) -> str:
    """Spell a class with the arguments that make one, or with its fields."""
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            return declaration(method, text).replace("def __init__", f"class {node.name}").removesuffix(" -> None")
    bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
    fields = [textwrap.indent(field(one, text), "    ") for one in node.body if isinstance(one, ast.AnnAssign)]
    return "\n".join([f"class {node.name}{bases}{':' if fields else ''}", *fields])


def field(node: ast.AnnAssign, text: str) -> str:
    """Spell a field, without the option of a command line that its type may be annotated with."""
    kind = node.annotation
    if not (isinstance(kind, ast.Subscript) and ast.unparse(kind.value) == "Annotated"):
        return segment(text, node, node)
    value = ast.get_source_segment(text, node.value) if node.value else None
    kind = kind.slice.elts[0] if isinstance(kind.slice, ast.Tuple) else kind
    return f"{ast.unparse(node.target)}: {ast.unparse(kind)}" + (f" = {value}" if value else "")


def words(node: Definition, text: str) -> str:
    """Read what the code says about a definition: its docstring, or the `#:` lines above an alias."""
    if not isinstance(node, ast.Assign):
        return ast.get_docstring(node) or ""
    above = text.splitlines()[: node.lineno - 1]
    first = max((number for number, line in enumerate(above, 1) if not line.startswith("#:")), default=0)
    return "\n".join(line.removeprefix("#:").strip() for line in above[first:])


def segment(text: str, first: ast.stmt, last: ast.stmt) -> str:
    """Cut out the lines from one statement to another, moved to the left edge; to the same one, all of it."""
    end = last.end_lineno if first is last else max(first.lineno, last.lineno - 1)
    return textwrap.dedent("\n".join(text.splitlines()[first.lineno - 1 : end]))


@cache
def source(module: str) -> str:
    """Read the source of a module or of a package's __init__.py."""
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        raise SystemExit(f"there is no {file}: correct API in tools/reference.py")
    return file.read_text(encoding="utf-8")


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(source(module))


if __name__ == "__main__":
    main()
