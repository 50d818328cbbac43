"""Hostile files: kinds of files, what is done to them, and what must not happen when they are read."""
