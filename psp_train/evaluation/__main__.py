"""`python -m psp_train.evaluation` is `psp-eval`."""

from psp_train.evaluation.cli import main

main()
