"""`psp-eval`: measure engines and checkpoints on test data."""
