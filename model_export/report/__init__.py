"""Pictures and pages for people: what a training did, and how well a model answers."""
