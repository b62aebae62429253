"""Verify engines against the reference, which is the trained model in PyTorch FP32.

`cases` makes the inputs, and what the reference gives for them; `parity` compares what an engine gives, and refuses one
that differs too much; `headroom` measures how far the values inside an FP16 graph stay from overflow.
"""
