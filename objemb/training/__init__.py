"""Training: the tasks, and the runner that they share."""
