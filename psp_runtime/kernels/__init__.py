"""The two custom operations of StyleGAN2 as CUDA kernels: sources, compiled PTX, and how to launch them.

One source each, for training (`psp_train.ops`), for TensorRT plugins (`psp_runtime.engines.tensorrt.plugins`) and for
whoever has a CUDA context: nothing here needs torch or the CUDA toolkit, only the driver. docs/ops.md has the
definitions.
"""
