"""Export a trained pSp to engines: ONNX files and TensorRT plans, verified before they get their names."""
