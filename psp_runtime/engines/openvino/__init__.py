"""ONNX engines in OpenVINO, on the CPU."""
