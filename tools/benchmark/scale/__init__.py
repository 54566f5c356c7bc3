"""Measure data sets of a million images, and the ways to store them."""
