"""Power cuts after every operation: what the recovered replica must show."""
