"""TensorRT and TensorRT-RTX plans on an NVIDIA GPU."""
