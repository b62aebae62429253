"""The errors of the toolkit: one line each, saying what was given, what was expected and how to fix it."""


class PspError(Exception):
    """A mistake the caller can act on. Command line tools print its text and exit with 2."""


class PictureError(PspError):
    """A picture that cannot be read, or does not fit the engine."""


class EngineError(PspError):
    """An engine file that is missing, damaged, not ours, or made for something else than what is here."""


class DeviceError(EngineError):
    """The device an engine needs is not usable on this machine."""
