"""The release, in one place: the package, model cards and `--version` read it here."""

__version__ = "0.1.0"
