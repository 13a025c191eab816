"""Trained weights and class names: downloading, reading, checking, and building networks from them."""
