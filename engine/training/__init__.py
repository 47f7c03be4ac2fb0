"""A training: the loop, how gradients are found, the learning rate, checkpoints and how they are written."""
