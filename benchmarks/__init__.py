"""The programs behind the figures of the documentation.

Run nothing else on the machine meanwhile.
"""
