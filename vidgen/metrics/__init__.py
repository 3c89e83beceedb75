"""Metrics on videos: pure functions, and their states."""
