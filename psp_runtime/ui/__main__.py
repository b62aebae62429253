"""`python -m psp_runtime.ui` is `psp-ui`."""

from psp_runtime.ui.cli import main

main()
