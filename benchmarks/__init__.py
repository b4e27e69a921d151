"""Side-by-side measurements of this project's target and of its peer, tgtd."""
