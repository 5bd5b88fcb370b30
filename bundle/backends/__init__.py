"""Run or export the network by other runtimes: OpenVINO (also in 8-bit integers) and ONNX."""
