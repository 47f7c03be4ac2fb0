"""Training: the loop, gradients over several processes, learning-rate schedules, checkpoints and their writing."""
