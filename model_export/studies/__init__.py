"""Studies of the networks themselves, beside single trainings: what they cost and how they compare."""
