"""The monitor: what daemons publish, drawn live. A model, its picture, and the loop between."""
