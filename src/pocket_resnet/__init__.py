"""PocketResNet: give it a parameter budget, get the most accurate residual network that fits."""

__version__ = "0.1.0"
