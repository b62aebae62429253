"""Drawn faces: pictures, label maps and sketches that follow from a vector, and the networks that judge them.

The drawing is imported from here; judges and data sets have modules of their own, with PyTorch.
"""

from psp_train.drawn.faces import FACE_DIM, PARAMETERS, Face, draw, parameters, sample, with_parameters

__all__ = ["FACE_DIM", "PARAMETERS", "Face", "draw", "parameters", "sample", "with_parameters"]
