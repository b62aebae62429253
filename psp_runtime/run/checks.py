"""Which options go together, and which with the engine: what can be wrong before anything is read."""

from psp_runtime.engines.contract import require_faces
from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.engines.refinement import check_pair
from psp_runtime.errors import PspError
from psp_runtime.pictures.sheets import check_animation
from psp_runtime.run.options import CHANGES, SHARED, Options, flag, is_stored

#: What has no meaning for saved latents, and on machines that each write files of their own.
_NEED_PICTURES, _NEED_ONE_PLACE = ("couple", "align", *CHANGES), ("save_latents", *SHARED)
#: What goes with --align.
_NEED_FACES = ("faces", "paste_back", "save_aligned")


def check(options: Options, info: EngineInfo) -> None:
    """Raise `PspError` for options that contradict each other or the task of the engine."""
    _check_task(options, info)
    for name in options.given(("gif", "webp")):
        check_animation(getattr(options, name), f".{name}")
    if options.url and options.device != "auto":
        raise PspError("--url and --device contradict each other: the server chose its device when it started")
    if options.url and options.precision != "auto":
        raise PspError("--url and --precision contradict each other: the server chose its precision when it started")
    if options.couple and not (options.singles or options.gif or options.webp):
        raise PspError("--couple is for pictures and animations, and a sheet shows its inputs anyway: leave it out")
    if options.format and not options.singles:
        raise PspError("--format is for single pictures, and only a sheet or an animation is asked for: add --out")
    if options.actors and not options.ray:
        raise PspError("--actors goes with --ray, which is not given")
    _check_photos(options, info)
    _check_steps(options, info)
    if options.ray:
        _check_cluster(options)


def _check_photos(options: Options, info: EngineInfo) -> None:
    for name in () if options.align else options.given(_NEED_FACES):
        raise PspError(f"{flag(name)} goes with --align, which is not given")
    if not options.align:
        return
    if info.input == "sketch" and not options.sketch_from_photo:
        words = f"--align is for photos, {options.engine} is an engine of {info.task}"
        raise PspError(f"{words}: add --sketch-from-photo")
    require_faces(info, options.engine, "--align", "--paste-back" if options.paste_back else "")
    if options.paste_back and not (options.singles or options.gif or options.webp):
        raise PspError("--paste-back is for pictures and animations, and a sheet shows the faces alone: add --out")
    several = options.several  # a mistake in --faces is said here
    for name in options.given(("gif", "webp")):
        if several and not options.paste_back:
            raise PspError(f"{flag(name)} animates one face, given --faces {options.faces}: add --paste-back")


def _check_steps(options: Options, info: EngineInfo) -> None:
    for name in options.given(("iterations", "first")):
        if not info.iterations:
            raise PspError(f"{flag(name)} is for ReStyle engines, {options.engine} makes its pictures in one step")
    if options.first:
        if options.url:
            raise PspError("--url and --first contradict each other: the first step is the server's, psp serve --first")
        check_pair(info, read_info(options.first), str(options.first))


def _check_task(options: Options, info: EngineInfo) -> None:
    wanted = {flag(name): task for name, task in CHANGES.items() if options.given((name,))}
    if options.task:
        wanted[f"psp {options.verb}"] = options.task
    for what, task in wanted.items():
        if info.task != task:
            raise PspError(f"{what} is for {task} engines, {options.engine} is one of {info.task}")


def _check_cluster(options: Options) -> None:
    for name in options.given(_NEED_ONE_PLACE):
        raise PspError(f"--ray and {flag(name)} contradict each other: each of many machines makes files of its own")
    for path in filter(is_stored, options.inputs):
        raise PspError(f"--ray takes pictures, {path} holds latents: leave out --ray")


def check_stored(options: Options) -> None:
    """Raise `PspError` for options that need a picture where latents are given."""
    for name in options.given(_NEED_PICTURES):
        raise PspError(f"{flag(name)} needs pictures, and {options.inputs[0]} holds latents: leave it out")
    others = [str(getattr(options, name)) for name in options.given(("to", "style_of"))]
    if options.iterations and all(map(is_stored, others)):
        raise PspError(
            f"--iterations is for pictures, and {options.inputs[0]} holds latents, which are decoded in one step: "
            "leave it out"
        )
