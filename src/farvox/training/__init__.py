"""Training: the examples that are drawn, and the trainer."""
