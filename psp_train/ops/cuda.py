"""The CUDA kernels of psp_runtime on torch tensors: when they are used, and how they are launched."""

import functools
import os
import warnings

import torch

from psp_runtime.errors import DeviceError
from psp_runtime.kernels import driver, ptx
from psp_runtime.kernels.launches import DTYPES, Launch, Tensor

#: Set to 0, the operations are plain torch on GPUs too.
SWITCH = "PSP_CUDA_OPS"


def usable(x: torch.Tensor) -> bool:
    """Tell whether the kernels take this CUDA tensor; where they cannot be loaded, a warning says why, once."""
    return dtype_name(x.dtype) in DTYPES and _usable(x.get_device())


def obstacle(index: int) -> str:
    """Say why the GPU of this index does not use the kernels; empty where it does."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH}=0"
    try:
        with driver.primary_context(index):
            for source in ptx.SOURCES:
                driver.prepare(source, "float32")
    except DeviceError as error:
        return str(error)
    return ""


@functools.cache
def _usable(index: int) -> bool:
    reason = obstacle(index)
    if reason and not reason.startswith(SWITCH):
        warnings.warn(f"upfirdn2d and fused_bias_leaky_relu run in plain torch: {reason}", stacklevel=2)
    return not reason


def launch(what: Launch | None, x: torch.Tensor) -> None:
    """Queue a kernel on the current stream of the tensor's GPU. Raises `DeviceError` when CUDA refuses."""
    index = x.get_device()
    with driver.primary_context(index):
        driver.launch(what, torch.cuda.current_stream(index).cuda_stream)


def describe(x: torch.Tensor) -> Tensor:
    """Describe a tensor by its address, type, shape and strides, as the launch plans take it."""
    return Tensor(x.data_ptr(), dtype_name(x.dtype), x.shape, x.stride())


def dtype_name(dtype: torch.dtype) -> str:
    """Name a type as the kernels do: torch.float16 -> "float16"."""
    return str(dtype).removeprefix("torch.")
