"""Runs the core on its edges: the only code that knows both."""
