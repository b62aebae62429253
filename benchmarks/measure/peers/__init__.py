"""The other networks of the paper's runtime column, measured as they are: this toolkit has no engine for them.

`inversion.py` has ALAE and IDInvert, `rotate_and_render.py` the generator of Rotate-and-Render; `shapes.py` what they
are made of, `weights.py` seeded tensors of it.
"""
