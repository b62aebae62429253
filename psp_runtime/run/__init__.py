"""What the verbs of `psp` do between the command line and the pipeline."""
