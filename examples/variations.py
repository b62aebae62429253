"""Make a face of a picture, and five variations of it with random styles mixed in.

    python examples/variations.py psp.onnx image.png

Writes image_0.png (the face), image_1.png to image_5.png, and image.npy, the W+ latents [1,L,S] that `psp decode` and
`psp edit` take.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import psp_runtime


def main(engine: str, picture: str) -> None:
    path = Path(picture)
    with psp_runtime.load(engine) as pipeline:
        image = pipeline.prepare([path])  # uint8 [1,256,256,3]
        face, latents = pipeline.translate(image)  # uint8 [1,H,W,3], float32 [1,L,S]
        # The latents take the place of the picture: it is encoded once.
        variations = pipeline.mix(latents, pipeline.styles(5, seed=7))  # uint8 [1,5,H,W,3]
    for number, pixels in enumerate([face[0], *variations[0]]):
        Image.fromarray(pixels).save(path.with_name(f"{path.stem}_{number}.png"))
    np.save(path.with_suffix(".npy"), latents)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} ENGINE PICTURE")
    main(*sys.argv[1:])
