"""What the extension uses of targetcli 3.x, which has no types of its own."""

__version__: str
