"""`psp-eval`: how good and how fast engines and checkpoints are on test pictures."""
