"""Pickles read as data: nothing that a file names is imported, and nothing in it is run.

A pickle is a program for a small stack machine. Two of its steps reach outside: looking a name up, and calling what was
found. Here a name is looked up in a table of inert stand-ins, which belong to the reader of one kind of file; any other
name refuses the file. Before that, the program is read once without being run: only the steps that data needs are
known, and its length and depth are limited, so that a small file cannot fill the memory or the stack.
"""

import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

_DATA = (
    "PROTO FRAME STOP MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD "
    "NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_DICT SETITEM SETITEMS EMPTY_LIST APPEND APPENDS "
    "EMPTY_SET ADDITEMS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 BINPERSID"
)
#: The steps of data in protocols 2 to 5. What is missing makes instances by other ways, or belongs to text pickles.
STEPS = frozenset(_DATA.split())
#: Those of them that put values into the value below.
FILLS = frozenset(("BUILD", "SETITEM", "SETITEMS", "APPEND", "APPENDS", "ADDITEMS"))
#: A generator of 1024x1024 pixels has 12,597 steps in NVIDIA's layout, its values are 33 deep.
MOST_STEPS, MOST_DEPTH = 2_000_000, 1000


class File(Protocol):
    """A file open for reading, such as `io.BytesIO` or a memory map: `read` gives no more than there is."""

    def read(self, size: int = ..., /) -> bytes: ...

    def readline(self) -> bytes: ...

    def seek(self, position: int, /) -> Any: ...

    def tell(self) -> int: ...


class ForbiddenError(pickle.UnpicklingError):
    """A pickle that asks for more than data; the message says for what, as in "it names os.system"."""


class StandIn:
    """What is called in the place of a global: `make` gets the arguments. Nothing can be written into it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        """Give what stands for the object."""
        return self._make(*arguments)

    def __setstate__(self, state: object) -> None:
        """Refuse the state that a pickle would write."""
        raise ForbiddenError("it changes what it names")


class Table(dict[Any, Any]):
    """What stands for a dict of another type; attributes it may have besides are left out."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Leave the attributes out."""


class Record(dict[Any, Any]):
    """What stands for an object with attributes: a dict of them."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Take the attributes of an object, a dict."""
        if not isinstance(state, dict):
            raise ForbiddenError(f"the state of an object is a {type(state).__name__}, not a dict")
        self.update(state)


def load(file: File, known: Mapping[str, Any], persistent: Callable[[Any], Any] | None = None) -> Any:
    """Read the pickle at the place where `file` stands, which then stands behind it.

    `known` has a stand-in for each global that such files name, by "module.name": a `StandIn`, or a class whose
    instances a pickle may fill. `persistent` gives what an id outside the pickle means. Raises `ForbiddenError` for
    more than data, and other errors of nearly any type for a damaged pickle.
    """
    start = file.tell()
    _check_steps(file)
    file.seek(start)
    unpickler = _Unpickler(file, encoding="latin1")
    unpickler.known, unpickler.persistent = known, persistent
    return unpickler.load()


class _Unpickler(pickle.Unpickler):
    """Looks names up in `known`."""

    known: Mapping[str, Any]
    persistent: Callable[[Any], Any] | None

    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{module_name}.{global_name}"
        if name not in self.known:
            raise ForbiddenError(f"it names {name[:80]!r}")
        return self.known[name]

    def persistent_load(self, pid: Any) -> Any:
        if self.persistent is None:
            raise ForbiddenError("it refers to data outside of it")
        return self.persistent(pid)


def _check_steps(file: File) -> None:
    """Read a pickle without running it. Raises `ForbiddenError` for steps and sizes that data does not need."""
    machine = _Depths()
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):  # type: ignore[arg-type]
        if opcode.name not in STEPS:
            raise ForbiddenError(f"it has the pickle step {opcode.name}")
        if number > MOST_STEPS:
            raise ForbiddenError(f"it has more than {MOST_STEPS} pickle steps")
        machine.step(opcode, argument)


class _Depths:
    """The stack machine, with the depth of each value in the place of the value.

    Python hashes and frees nested tuples by recursion in C: some ten thousand levels end the process.
    """

    def __init__(self) -> None:
        self.stack: list[int] = []
        self.marks: list[int] = []
        self.memo: dict[int, int] = {}

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        if opcode.name == "MARK":
            self.marks.append(len(self.stack))
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif opcode.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            self._remember(len(self.memo) if argument is None else argument)
        elif opcode.stack_before or opcode.stack_after:
            self._replace(opcode)

    def _remember(self, place: int) -> None:
        if place > MOST_STEPS:  # Python makes room for all places before it
            raise ForbiddenError(f"it has a value number {place}")
        self.memo[place] = self.stack[-1]

    def _replace(self, opcode: pickletools.OpcodeInfo) -> None:
        """Take what the step takes, and put down what it makes of it."""
        before = opcode.stack_before
        sliced = pickletools.markobject in before
        taken = before.index(pickletools.markobject) if sliced else len(before)
        start = (self.marks.pop() if sliced else len(self.stack)) - taken
        if start < 0:
            raise ForbiddenError("it takes values that are not there")
        fills = opcode.name in FILLS
        depth = 1 + max(self.stack[start + fills :], default=0)
        depth = max(depth, self.stack[start]) if fills else depth
        if depth > MOST_DEPTH:
            raise ForbiddenError(f"it nests values more than {MOST_DEPTH} deep")
        self.stack[start:] = [depth] * len(opcode.stack_after)
