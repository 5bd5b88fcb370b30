"""The same network in other runtimes: OpenVINO, ONNX."""
