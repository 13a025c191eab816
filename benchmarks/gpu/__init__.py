"""Benchmarks on a GPU, in stages that run and save their results independently."""
