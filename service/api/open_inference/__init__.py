"""The Open Inference Protocol v2 over HTTP: paths, JSON, the binary tensor extension and statuses."""
