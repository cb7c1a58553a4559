"""The names of the built-in data sets. Imports nothing, so that commands can check a name without torch."""

NAMES = ("cifar10", "cifar100", "digits", "auto")
