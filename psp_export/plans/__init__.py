"""Build TensorRT plans: from which file, how, and what is told meanwhile."""
