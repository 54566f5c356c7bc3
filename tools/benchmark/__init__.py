"""Measure this project beside other detectors, on one machine. It is not part of the package that users install."""
