"""`python -m psp_runtime.serving` is `psp-serve`."""

from psp_runtime.serving.cli import main

main()
