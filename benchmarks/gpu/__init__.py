"""The proof on a GPU, in stages of which each counts by itself: see `python -m benchmarks.gpu --help`."""
