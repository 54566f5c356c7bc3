"""TFLite files: written from an ONNX graph, quantised, described, checked and run."""
