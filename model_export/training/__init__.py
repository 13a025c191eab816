"""Training: recipes, augmentation, the loop, checkpoints. The order to read in is recipe, augment, loader, trainer."""
