"""Measures a server under load: the command `resnet bench`."""
