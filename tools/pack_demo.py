"""Pack the encoder of a training run as the bundled demo model of its task.

    psp-train --task sketch --demo --out runs/sketch
    python tools/pack_demo.py runs/sketch/best.pt

Writes psp_train/weights/demo_TASK.safetensors: FP16, under the published key names.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from psp_train import demo
from psp_train.checkpoints.psp import load_checkpoint


def pack(path: Path) -> Path:
    """Store a checkpoint's encoder; its generator must be the bundled one."""
    checkpoint = load_checkpoint(path)
    generator, _ = demo.load_generator()
    ours, theirs = generator.state_dict(), checkpoint.model.decoder.state_dict()
    if not all(torch.equal(ours[key], theirs[key]) for key in ours):
        raise SystemExit(f"{path} was trained over another generator than the bundled one")
    tensors = {f"encoder.{key}": value for key, value in checkpoint.model.encoder.state_dict().items()}
    target = demo.WEIGHTS / f"demo_{checkpoint.task.name}.safetensors"
    save_file({k: v.half().contiguous() if v.is_floating_point() else v for k, v in tensors.items()}, target)
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", type=Path, nargs="+")
    for checkpoint in parser.parse_args().checkpoints:
        target = pack(checkpoint)
        print(f"{target}  {target.stat().st_size / 1e6:.2f} MB")
