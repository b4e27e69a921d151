"""Deliberately broken versions of the real code: the simulator counts only if it kills them."""
