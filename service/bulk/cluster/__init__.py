"""Classifies on the machines of a Ray cluster: decoding in tasks, the engine in actors. Needs the extra `ray`."""
