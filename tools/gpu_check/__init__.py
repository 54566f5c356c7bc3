"""Checks and measurements of this project on a GPU."""
