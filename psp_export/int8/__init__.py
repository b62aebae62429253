"""Turn the FP32 graph of an engine into INT8 by explicit Q/DQ nodes, which every runtime and TensorRT understand.

`layouts` says which layers compute in 8 bits on which processor; `samples` chooses the pictures, `calibration` runs
them and keeps where values lie (`histograms`), `scales` turns that into 8 bits, `nodes` writes the graph, `bias` takes
its mean error out, and `ladder` steps back until the gate is passed. The way from an exact product to one in 8 bits is
that of Jacob et al. 2018 (Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
equation 1).
"""
