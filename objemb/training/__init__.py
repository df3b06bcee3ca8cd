"""Training: tasks, and the runner that all of them share."""
