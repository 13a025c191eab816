"""Labelled images: folders, CIFAR-10 and drawings, read one at a time as a client would send them."""
