"""Copies published models from a bucket, a registry or a folder into a model folder, and verifies them.

Knows no server and no engine: an init container of the service's image runs it before the service starts.
"""
