"""What the documentation claims, as programs. Run nothing else on the machine meanwhile."""
