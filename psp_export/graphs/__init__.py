"""Make ONNX files: trace modules, give custom operations their definitions, look into what was made."""
