"""Measuring generated videos: from folders, files and checkpoints to numbers with their protocols."""
