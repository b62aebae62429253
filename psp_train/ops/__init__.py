"""The two operations StyleGAN2 adds to a standard framework: plain torch everywhere, CUDA kernels on NVIDIA GPUs.

Both are `torch.library` operators: they work under autograd (twice), torch.compile, autocast and DDP. Which version a
machine uses, and why: `python -m psp_train.ops`. docs/ops.md has the definitions.
"""

import contextlib
from collections.abc import Iterator

from psp_train.ops.fused_bias_leaky_relu import _forward, _gradient, fused_bias_leaky_relu
from psp_train.ops.upfirdn2d import _upfirdn2d, resample, upfirdn2d

__all__ = ["fused_bias_leaky_relu", "plain_torch", "resample", "upfirdn2d"]

_OPERATORS = (_forward, _gradient, _upfirdn2d)


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """Run without the kernels inside the block, to compare with them. PSP_CUDA_OPS=0 does so for a whole process."""
    with contextlib.ExitStack() as stack:
        for operator in _OPERATORS:
            stack.enter_context(operator.set_kernel_enabled("cuda", enabled=False))
        yield
