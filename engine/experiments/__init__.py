"""Experiments from short declarative files: trainings and evaluations with several seeds, their tables and plots."""
