"""Experiments from short declarative files: trainings and evaluations of several seeds, and their tables and plots."""
