"""`psp-train` as `python -m psp_train`, which torchrun starts."""

from psp_train.cli import main

main()
