"""Classifies any number of images, in this process or on a server: the command `resnet classify`."""
