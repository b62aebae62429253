"""Run `psp-export` as `python -m psp_export`."""

from psp_export.cli import main

main()
