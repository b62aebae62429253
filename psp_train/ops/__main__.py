"""`python -m psp_train.ops`: which version of the operations this machine uses, and why."""

import torch

from psp_train.ops.cuda import obstacle


def main() -> None:
    """Print one line for each device."""
    print("cpu: plain torch")
    if not torch.cuda.is_available():
        print("cuda: plain torch; this torch sees no NVIDIA GPU")
    for index in range(torch.cuda.device_count()):
        reason = obstacle(index)
        version = f"plain torch; {reason}" if reason else "CUDA kernels for float32, float16 and bfloat16"
        print(f"cuda:{index} ({torch.cuda.get_device_name(index)}): {version}")


if __name__ == "__main__":
    main()
