"""What a GPU computes besides the network: decoding and resizing. Needs `service.runtime.cuda` to find a GPU."""
