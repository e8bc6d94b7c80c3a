"""Configurations, data feeding, the trainer, and checkpoints."""
