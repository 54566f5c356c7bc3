"""Exported models, and the runtimes that run them behind the same ``predict``."""
