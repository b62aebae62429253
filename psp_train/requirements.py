"""What the commands of this package need besides psp_runtime; importing this needs none of it."""

import importlib.util

#: The modules without which nothing here trains or measures.
MODULES = ("torch", "safetensors")


def obstacle(command: str) -> str:
    """Say what is missing for `command` and how to install it; empty where nothing is."""
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    return f"{command} needs {', '.join(missing)}: pip install '.[cpu,train]'" if missing else ""
