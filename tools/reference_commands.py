"""Write the reference of the commands: every option as its typer object declares it."""

import re
import types
import typing
from collections.abc import Callable, Collection
from enum import Enum
from importlib import import_module
from inspect import cleandoc, signature
from pathlib import Path
from typing import Any, NamedTuple

from typer import Typer
from typer.models import ArgumentInfo, OptionInfo

from psp_runtime.cli import VERBS
from psp_runtime.run.verbs import VERBS as MAKING

#: Each command, and where its typer app is, as MODULE:NAME; those of psp train and psp eval import PyTorch.
COMMANDS = {f"psp {verb}": place for verb, (_, place, _) in VERBS.items()}
#: The commands that run an engine over inputs. Most of their options are the same, and stand in a table of their own.
MAKERS = [f"psp {one.verb}" for one in MAKING]
SHARED = "Options of most verbs that run engines"
INTRODUCTION = """\
# Commands

Written by `make reference` from the commands themselves: change their help texts, not this file.

`--help` shows the same in a terminal.
Where the default is a dash, the help text names in brackets what happens without the option.
`psp-run`, `psp-export`, `psp-train`, `psp-eval`, `psp-serve` and `psp-ui` are the verbs of these names.
[environment.md](../environment.md) has exit codes, environment variables and the files that each command writes.
"""
PANEL = "Options"
#: Defaults that stand for an option that is not given.
NOT_GIVEN = (None, (), [], Path())
KINDS = {Path: "path", str: "text", int: "whole number", float: "number"}

Info = ArgumentInfo | OptionInfo


class Parameter(NamedTuple):
    """Holds an argument or option: the panel of the help it stands in, and the cells of its row."""

    panel: str
    name: str
    values: str
    default: str
    help: str

    @property
    def is_argument(self) -> bool:
        """Whether it is given by its place, not by its name."""
        return not self.name.startswith("-")


def commands_page() -> str:
    """Write all commands and sub-commands with their options as Markdown."""
    common = shared()
    lines = [INTRODUCTION, *described_shared(common)]
    for name, place in COMMANDS.items():
        for words, function in functions(name, app_of(place)):
            lines += described(words, function, common if name in MAKERS else {})
    return "\n".join(lines)


def app_of(place: str) -> Typer:
    """Import the typer app at MODULE:NAME."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def shared() -> dict[Parameter, list[str]]:
    """Find the options that more than half of the MAKERS have, and the MAKERS that lack each."""
    found = {name: parameters(functions(name, app_of(COMMANDS[name]))[0][1]) for name in MAKERS}
    lacking = {one: [name for name in MAKERS if one not in found[name]] for every in found.values() for one in every}
    return {one: names for one, names in lacking.items() if 2 * len(names) < len(MAKERS) and not one.is_argument}


def described_shared(common: dict[Parameter, list[str]]) -> list[str]:
    """Write the options that MAKERS share as Markdown; those that not all of them have say so."""
    rows = []
    for one, lacking in common.items():
        but = f" Not of {' and '.join(f'`{name}`' for name in lacking)}." if lacking else ""
        rows.append(one._replace(help=one.help + but))
    names = [f"[`{name}`](#{name.replace(' ', '-')})" for name in MAKERS]
    return [f"## {SHARED}\n", f"{', '.join(names[:-1])} and {names[-1]} take these besides their own.\n", *table(rows)]


def functions(name: str, app: Typer) -> list[tuple[str, Callable[..., Any]]]:
    """List what a typer app runs: the command itself, and after it its sub-commands."""
    commands = [(one.name or one.callback.__name__, one.callback) for one in app.registered_commands if one.callback]
    main = app.registered_callback.callback if app.registered_callback else None
    if main is None and len(commands) == 1:
        return [(name, commands[0][1])]
    subs = [(f"{name} {sub.replace('_', '-')}", command) for sub, command in commands]
    return [(name, main), *subs] if main else subs


def described(name: str, function: Callable[..., Any], common: Collection[Parameter]) -> list[str]:
    """Write a command as Markdown: how it is called, what it does, and a table of what is not `common`."""
    found = parameters(function)
    usage = " ".join([name, *(one.name for one in found if one.is_argument), "[OPTIONS]"])
    own = [one for one in found if one not in common]
    more = [f"And the [{SHARED.lower()}](#{SHARED.lower().replace(' ', '-')}).\n"] if common else []
    return [f"## {name}\n", f"```\n{usage}\n```\n", prose(cleandoc(function.__doc__ or "")), *table(own), *more]


def table(found: list[Parameter]) -> list[str]:
    """Write a table of parameters, those of a panel of the help together."""
    panels = list(dict.fromkeys(one.panel for one in found))
    rows = [
        row(f"`{one.name}`", one.values, one.default, one.help)
        for one in sorted(found, key=lambda one: panels.index(one.panel))
    ]
    return [row("", "values", "default", "meaning"), row(*["---"] * 4), *rows, ""] if rows else []


def parameters(function: Callable[..., Any]) -> list[Parameter]:
    """Collect the arguments and options of a command."""
    found = []
    for name, one in signature(function, eval_str=True).parameters.items():
        kind, *infos = typing.get_args(one.annotation) or (None,)
        if infos and isinstance(infos[0], Info):  # not typer's own context
            found.append(parameter(name, kind, infos[0], one.default))
    return found


def parameter(name: str, kind: Any, info: Info, default: Any) -> Parameter:
    """Make the row of one parameter of a command's function, of the type `kind`."""
    panel = info.rich_help_panel or PANEL
    text, otherwise = info.help or "", shown(default)
    if name == "threads":  # else the cores of this machine would stand there
        text, otherwise = re.sub(r"\d+\)", "one per core)", text), re.sub(r"`\d+`", "one per core", otherwise)
    return Parameter(panel, spelled(name, kind, info, default), values(kind, info), otherwise, text)


def spelled(name: str, kind: Any, info: Info, default: Any) -> str:
    """Spell a parameter as typer does: a flag that names no opposite gets one."""
    if isinstance(info, ArgumentInfo):
        word = info.metavar or name.upper()
        return word if default is signature(spelled).empty else f"[{word}]..."
    declared = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
    flag = name.replace("_", "-")
    return ", ".join(declared) or (f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}")


def values(kind: Any, info: Info) -> str:
    """Say what a parameter takes."""
    origin, kinds = typing.get_origin(kind), [one for one in typing.get_args(kind) if one is not types.NoneType]
    if origin is typing.Literal:
        return ", ".join(f"`{one}`" for one in kinds)
    if origin in (list, tuple):
        return f"{values(kinds[0], info)}, several"
    if kinds:  # X | None
        return values(kinds[0], info)
    if kind is bool:
        return "flag"
    if issubclass(kind, Enum):
        return ", ".join(f"`{one.value}`" for one in kind)
    words = f"`{info.metavar}`" if info.metavar and isinstance(info, OptionInfo) else KINDS.get(kind, kind.__name__)
    limits = "" if info.min is None else f", {info.min} or more" if info.max is None else f", {info.min} to {info.max}"
    return words + limits


def shown(default: Any) -> str:
    if default is True:
        return "on"
    if default is False or default in NOT_GIVEN:
        return "—"
    return "required" if default is signature(shown).empty else f"`{getattr(default, 'value', default)}`"


def row(*cells: str) -> str:
    """Join cells to a row of a table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def prose(docstring: str) -> str:
    """Turn a docstring into Markdown, one sentence on a line; what it indents stays as it is."""
    blocks = [block if block.startswith("    ") else " ".join(block.split()) for block in docstring.split("\n\n")]
    return re.sub(r"(?<=[.!?]) (?=[A-Z`])", "\n", "\n\n".join(blocks)) + "\n"
