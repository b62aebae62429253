"""Pack a trained generator as the one under all bundled demo models.

    python tools/demo_training/pack_generator.py --work runs/demo
    python tools/pack_demo.py runs/demo/sketch.pt runs/demo/inversion.pt ...

Writes psp_train/weights/demo_generator.safetensors: FP16, under the published key names, with the average w. The
encoders bundled so far do not fit it: pack those trained over it next, as in the second line.
"""

import sys

import command
from model import average_w, load
from safetensors.torch import save_file

from psp_train import demo


def main() -> None:
    parser = command.parser(__doc__)
    path = parser.parse_args().work / "generator_256.pt"
    if not path.is_file():
        parser.error(f"no file {path}: train the generator first")
    generator = load(path).half().float()
    if generator.config != demo.GENERATOR:
        print(f"psp_train.demo.GENERATOR is {demo.GENERATOR}, make it {generator.config} first", file=sys.stderr)
        raise SystemExit(2)
    state = {key: value for key, value in generator.state_dict().items() if not key.startswith("noises.")}
    tensors = {f"decoder.{key}": value.half().contiguous() for key, value in state.items()}
    target = demo.WEIGHTS / demo.GENERATOR_FILE
    save_file(tensors | {"latent_avg": average_w(generator).half()}, target)
    print(f"{target}  {target.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
