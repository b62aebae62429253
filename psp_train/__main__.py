"""`psp-train`, also as `python -m psp_train`, which torchrun starts: says what is missing before torch is needed."""

import importlib.util
import sys
from typing import NoReturn

from psp_runtime import console


def main() -> NoReturn:
    """The `psp-train` command."""
    missing = [name for name in ("torch", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        console.error(f"psp-train needs {', '.join(missing)}: pip install 'psp-toolkit[cpu,train]'")
        sys.exit(console.MISTAKE)
    from psp_train import cli

    cli.main()


if __name__ == "__main__":
    main()
