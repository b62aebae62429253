"""How our commands begin and end: plain help, one line on stderr for a mistake, exit codes a script can rely on."""

import inspect
import io
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import MISSING, Field, dataclass, fields
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from psp_runtime.errors import PspError

#: Where engines run, as a value of --device.
Device = Literal["auto", "cuda", "cpu"]
#: The panels of a help page, in their order.
PANELS = INPUT, MAKE, HOW, PLANS, SAVE, WHERE = (
    "Input", "What is made", "How it is trained", "TensorRT plans", "What is saved", "Where it runs"
)  # fmt: skip
#: The value of --ray without an address.
LOCAL_RAY = "local"

#: The exit code of a mistake the user can correct, as of a wrong option.
MISTAKE = 2
#: What a shell reports for a program stopped by Ctrl-C: 128 + SIGINT.
INTERRUPTED = 130
#: The environment variable that shows what is behind an error.
DEBUG = "PSP_DEBUG"
#: Columns of a help page at most.
WIDEST_HELP = 100
#: What would move the cursor, change colours or the order of letters: a file's name may hold it.
_CONTROLS = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069]")
#: What typer raises for a command line it cannot read. It has no public name there, one kind of it has.
_UsageError: Any = typer.BadParameter.__base__

Asked = TypeVar("Asked")


class _PlainHelp:
    """Help as plain text with a section for each panel of options: it fits a screen, where boxes do not."""

    context_settings: MutableMapping[str, Any]
    get_params: Callable[[Any], list[Any]]

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.context_settings.setdefault("max_content_width", WIDEST_HELP)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, a section for each panel. Who reads them has found --help."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in (one for one in self.get_params(ctx) if one.name != "help"):
            kind = "Options" if parameter.param_type_name == "option" else "Arguments"
            if record := parameter.get_help_record(ctx):
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or kind, []).append(record)
        for panel, records in panels.items():  # no empty lines before and between them: the longest page just fits
            formatter.write_heading(panel)
            with formatter.indentation():
                formatter.write_dl(records)


class Command(_PlainHelp, TyperCommand):
    """A command with plain help."""


class Group(_PlainHelp, TyperGroup):
    """A command with sub-commands, with plain help."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, then the sub-commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def new_app(**settings: Any) -> typer.Typer:
    """Make an app for the commands of one of our programs: plain help, errors as `run` shows them."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **settings)


def option(panel: str, help: str, *names: str, **more: Any) -> Any:
    """Describe an option in a panel of the help. On the command line it is called as its field, or one of `names`."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


@dataclass(frozen=True, kw_only=True)
class Talk:
    """How much a command tells."""

    quiet: Annotated[bool, option(WHERE, "Print warnings and errors only.", "--quiet", "-q")] = False
    verbose: Annotated[bool, option(WHERE, "Show what is behind an error.", "--verbose", "-v")] = False


class _Progress:
    """Whether progress is shown; a quiet command shows none."""

    shown = True


def shows_progress() -> bool:
    """Tell whether progress may be written on stderr: not by a command with --quiet."""
    return _Progress.shown


@contextmanager
def _talking(asked: Any) -> Iterator[None]:
    """Tell as much as the options of a command ask for, where they do."""
    if getattr(asked, "verbose", False):
        os.environ[DEBUG] = "1"
    if not getattr(asked, "quiet", False):
        yield
        return
    _Progress.shown = False
    try:
        with open(os.devnull, "w") as nothing, redirect_stdout(nothing):
            yield
    finally:
        _Progress.shown = True


def as_command(options: type[Asked], do: Callable[[Asked], None]) -> Callable[..., None]:
    """Make a function for typer: its parameters are the options among the fields of a dataclass, and `do` gets one.

    A field is an option where its type is annotated with one; a field of type `typer.Context` is filled in.
    """
    hints = get_type_hints(options, include_extras=True)

    def command(**given: Any) -> None:
        asked = options(**given)
        with _talking(asked):
            do(asked)

    shown = [one for one in fields(options) if _is_shown(hints[one.name])]  # type: ignore[arg-type]
    parameters = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=_default(one), annotation=hints[one.name])
        for one in sorted(shown, key=lambda one: _place(hints[one.name]))
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__doc__ = options.__doc__
    return command


def make_app(options: type[Asked], do: Callable[[Asked], None], no_args_is_help: bool = True) -> typer.Typer:
    """Make a typer app of one command."""
    app = new_app()
    app.command(no_args_is_help=no_args_is_help, cls=Command)(as_command(options, do))
    return app


def _is_shown(hint: Any) -> bool:
    return get_origin(hint) is Annotated or hint is typer.Context


def _place(hint: Any) -> int:
    """Say where an option stands in the help: arguments first, then by panel."""
    panel = "" if hint is typer.Context else hint.__metadata__[0].rich_help_panel
    return PANELS.index(panel) if panel in PANELS else -1


def _default(field: "Field[Any]") -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is MISSING else field.default


class _CtrlC:
    """The handler of Ctrl-C, which remembers: a library that catches everything may swallow the exception."""

    came = False

    def __call__(self, *_: object) -> None:
        self.came = True
        raise KeyboardInterrupt


_ctrl_c = _CtrlC()


def run(app: Callable[[], object]) -> NoReturn:
    """Run a typer app (or any function without arguments) and exit.

    A `PspError`, a wrong option and what the system refuses (disk full, no permission) become one `error: …` line and
    exit 2, Ctrl-C exits with 130, each warning is one `warning: …` line, a closed pipe ends the program quietly. Exit
    codes the app chose itself are kept; anything else is a bug of ours and keeps its traceback. With PSP_DEBUG=1 in the
    environment the traceback behind an `error: …` line is printed before it.
    """
    show_warnings()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name that is not valid text must not end a run at the line that reports it.
        sys.stdout.reconfigure(errors="backslashreplace")
        write = sys.stdout.write
        sys.stdout.write = lambda text: write(printable(text))  # type: ignore[method-assign]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _ctrl_c)
    sys.exit(_exit_code(app))


def show_warnings() -> None:
    """Print each warning once, as one `warning: …` line on stderr."""
    warnings.showwarning = _warning_lines()


def end_if_interrupted() -> None:
    """Between the stages of long work: raise the `KeyboardInterrupt` that was swallowed, if one was."""
    if _ctrl_c.came:
        raise KeyboardInterrupt


def error(text: object) -> None:
    """Print one `error: …` line on stderr, whatever line breaks the text has; with PSP_DEBUG=1, where it comes from."""
    if os.environ.get(DEBUG) == "1" and sys.exc_info()[0] is not None:
        traceback.print_exc()
    print(f"error: {_one_line(text)}", file=sys.stderr)


def printable(text: str) -> str:
    """Write out the control characters of a text, as \\x1b; line breaks and tabs stay."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def counted(number: int, noun: str) -> str:
    """Write how many there are of something: "1 picture", "2 pictures"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def skipped(failed: int, inputs: int, noun: str) -> str:
    """Write the last line of a run some of whose inputs could not be used."""
    return f"{failed} of {counted(inputs, noun)} could not be used and {'was' if failed == 1 else 'were'} skipped"


def end(text: object) -> NoReturn:
    """End the program with one `error: …` line, as for a mistake."""
    error(text)
    sys.exit(MISTAKE)


def _exit_code(app: Callable[[], object]) -> int | str | None:
    try:
        code = _call(app)
        # What is still buffered meets a closed pipe here, not in the interpreter's own shutdown.
        if sys.stdout:  # None where the shell closed it
            sys.stdout.flush()
    except PspError as mistake:
        error(mistake)
        return MISTAKE
    except _UsageError as wrong:
        if type(wrong).__name__ == "NoArgsIsHelpError":  # a verb without arguments: its message is the help
            print(wrong.format_message(), file=sys.stderr)
            return MISTAKE
        command = wrong.ctx.command_path if wrong.ctx else _command()
        error(f"{wrong.format_message().rstrip('.')}: see {command} --help")
        return MISTAKE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as refused:
        error(_reason(refused))
        return MISTAKE
    return code


def _call(app: Callable[..., object]) -> int | str | None:
    code: object
    try:
        # Without arguments there is nothing to misread, and typer's own way of showing the help is wanted.
        given = {"standalone_mode": len(sys.argv) < 2, "prog_name": _program()}
        code = app(**given) if isinstance(app, typer.Typer) else app()
    except SystemExit as end:
        code = end.code
    if code == INTERRUPTED:  # typer turns Ctrl-C inside a command into this code without a word
        raise KeyboardInterrupt
    return code if isinstance(code, int | str) else 0


def _program() -> str:
    """Name what was called, as a person would call it again."""
    name = os.path.basename(sys.argv[0])
    module = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {module.parent}" if name == "__main__.py" and module else name.removesuffix(".exe")


def _command() -> str:
    """Name the program, with its verb where it has some."""
    name = _program()
    return " ".join([name, *sys.argv[1:2]]) if name == "psp" else name


def _reason(refused: OSError) -> str:
    reason = refused.strerror or str(refused)
    return f"{refused.filename}: {reason}" if refused.filename else reason


def _warning_lines() -> Callable[..., None]:
    shown: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        line = _one_line(message)
        if line not in shown:
            shown.add(line)
            print(f"warning: {line}", file=sys.stderr)

    return show


def _one_line(text: object) -> str:
    return printable(" ".join(str(text).splitlines()))
