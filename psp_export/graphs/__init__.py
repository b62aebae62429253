"""ONNX files: traced from modules, looked into, given the bodies of custom functions."""
