"""Compare exported engines with PyTorch in FP32."""
