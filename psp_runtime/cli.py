"""`psp` and its verbs, and `psp-run`, which is `psp run`."""

import difflib
import importlib
import re
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from psp_runtime import __version__, console
from psp_runtime.console import LOCAL_RAY

#: Each verb: the group it stands in, where its typer app is, and what it does. An app is imported when it is asked for:
#: some need libraries that others do without.
VERBS = {
    "run": ("Use", "psp_runtime.commands:run", "translate pictures: invert, frontalize, sketch to face, …"),
    "mix": ("Use", "psp_runtime.commands:mix", "make several faces of each input by mixing in random styles"),
    "morph": ("Use", "psp_runtime.commands:morph", "make the pictures on the way to another one, as a GIF too"),
    "transfer": ("Use", "psp_runtime.commands:transfer", "give pictures the colours of another one"),
    "edit": ("Use", "psp_runtime.commands:edit", "move pictures along a direction: smile, age, …"),
    "swap": ("Use", "psp_runtime.commands:swap", "render label maps before and after classes change"),
    "decode": ("Use", "psp_runtime.commands:decode", "make the pictures of saved latents"),
    "align": ("Use", "psp_runtime.commands:align", "cut the faces of photos out as FFHQ was: training data"),
    "direction": ("Use", "psp_runtime.commands:direction", "learn a direction from labelled examples"),
    "export": ("Make", "psp_export.cli:app", "turn a checkpoint into verified ONNX and TensorRT engines"),
    "train": ("Train", "psp_train.cli:app", "train an encoder for a task over a frozen StyleGAN2"),
    "eval": ("Train", "psp_train.evaluation.cli:app", "measure an engine or a checkpoint on test data"),
    "serve": ("Serve", "psp_runtime.serving.cli:app", "serve an engine over HTTP"),
    "ui": ("Serve", "psp_runtime.ui.cli:app", "open the web demo"),
    "info": ("Look", "psp_runtime.commands:info", "print what an engine says about itself"),
    "check": ("Look", "psp_runtime.checkup:app", "print what is installed, and what is missing for what"),
    "sample": ("Look", "psp_train.drawn.samples:app", "draw a face, sketch, label map or scene to try things on"),
}
#: What follows --ray if it is an address and not a picture.
_RAY_ADDRESS = rf"ray://.+|auto|{LOCAL_RAY}|[\w.-]+:\d+"
#: Options whose value may be left out, which typer does not allow: what a value looks like, and what stands for none.
_OPTIONAL = {"--ray": (_RAY_ADDRESS, LOCAL_RAY), "--paste-back": ("face|square", "face")}


class Verbs(TyperGroup):
    """The group of all verbs, each imported when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """List the names of the verbs."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Find the command of a verb, or None."""
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name][1].partition(":")
        return typer.main.get_command(getattr(importlib.import_module(module), name))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write one line for each verb, by group."""
        formatter.write(help_page())


def help_page() -> str:
    """Write what `psp --help` prints: it imports none of the verbs."""
    lines = ["Usage: psp VERB [ARGUMENTS]", "", "pixel2style2pixel, deployed: pictures through engines."]
    group = ""
    for verb, (panel, _, words) in VERBS.items():
        lines += [*(["", f"{panel}:"] if panel != group else []), f"  {verb:<11}{words}"]
        group = panel
    lines += ["", "psp VERB --help has its options. Also: psp --version, psp --install-completion.", ""]
    return "\n".join(lines)


app = typer.Typer(cls=Verbs, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"psp {__version__}")
        raise typer.Exit


@app.callback()
def _psp(version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True)) -> None:
    """Hold what all verbs have in common."""


def psp() -> NoReturn:
    """Run the `psp` command."""
    _prepare_arguments()
    _check_verb(next((word for word in sys.argv[1:] if not word.startswith("-")), ""))
    console.run(app)


def main() -> NoReturn:
    """Run the `psp-run` command."""
    from psp_runtime.commands import run

    _prepare_arguments()
    console.run(run)


def _check_verb(verb: str) -> None:
    if verb and verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1)
        hint = f"did you mean psp {near[0]}?" if near else "psp --help lists them"
        console.end(f"there is no psp {verb}: {hint}")


def _prepare_arguments() -> None:
    if "" in sys.argv[1:]:  # as a path it would be this folder
        console.end("one of the arguments is empty, perhaps from a variable that is not set: leave it out")
    sys.argv[1:] = _with_values(sys.argv[1:])


def _with_values(arguments: list[str]) -> list[str]:
    return [_with_value(one, after) for one, after in zip(arguments, [*arguments[1:], ""])]


def _with_value(argument: str, following: str) -> str:
    """Give an argument, with its value where that was left out."""
    pattern, value = _OPTIONAL.get(argument, ("", ""))
    return f"{argument}={value}" if value and not re.fullmatch(pattern, following) else argument
