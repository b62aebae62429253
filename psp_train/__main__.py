"""`psp-train`, also as `python -m psp_train`, which torchrun starts: says what is missing before torch is needed."""

from typing import NoReturn

from psp_runtime import console
from psp_train.requirements import obstacle


def main() -> NoReturn:
    """Run the `psp-train` command, or say what it needs."""
    if reason := obstacle("psp-train"):
        console.end(reason)
    from psp_train import cli

    cli.main()


if __name__ == "__main__":
    main()
