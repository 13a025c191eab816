"""Image files: from the bytes of an upload to the network's input, with the pixels of training."""
