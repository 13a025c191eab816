"""Labelled images: folders, CIFAR-10, drawings. They are read as a client would send them, one at a time."""
