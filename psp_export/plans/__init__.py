"""TensorRT plans: their source file, how they are built, what is shown meanwhile."""
