"""Trains or loads ResNets in PyTorch, proves and converts them to ONNX, and publishes them to a model folder."""
