"""`python -m psp_export`: the same as psp-export."""

from psp_export.cli import main

main()
