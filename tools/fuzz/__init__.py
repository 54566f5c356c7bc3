"""Fuzz tests of the readers: see __main__.py."""
