"""From a PyTorch network to a published model: the ONNX file, the two gates before it, and its folder."""
