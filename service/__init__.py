"""Serves published ResNets over HTTP through ONNX Runtime. Never imports torch."""
