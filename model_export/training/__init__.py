"""Training. Read recipe, augment, plan, loader, state and trainer in this order."""
