"""Our service beside the servers that people would pick instead: same model, same JPEG, one alternating run."""
