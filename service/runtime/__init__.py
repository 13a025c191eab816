"""A published model and all it takes to run one. No HTTP, no settings, no FastAPI."""
