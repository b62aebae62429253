"""Training data: which files belong together, and what a sample is."""
