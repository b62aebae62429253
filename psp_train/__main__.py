"""`python -m psp_train`: what torchrun starts."""

from psp_train.cli import main

main()
