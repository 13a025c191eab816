"""Soak: mixed load, faults and hostile input against two replicas behind nginx, for a given time.

`python -m benchmarks.soak` runs it.
"""
