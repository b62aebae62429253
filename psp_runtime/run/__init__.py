"""What `psp-run` does between its command line and the pipeline."""
