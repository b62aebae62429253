"""Engines as models of NVIDIA's Triton Inference Server: what `psp-serve` runs and `psp-export --triton` writes."""
