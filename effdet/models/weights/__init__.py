"""Weights of other projects, brought to the names used here."""
