"""Random sequences against plain models."""
