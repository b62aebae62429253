"""`python -m psp_runtime` is `psp-run`."""

from psp_runtime.cli import main

main()
