"""Puts a network in evaluation mode for a while."""

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Inside the block, the network is in evaluation mode; afterwards each of its modules is in its own mode again.

    Unlike `model.train(model.training)`, this also restores a network that is partly in training mode: one whose body
    is frozen. Threads may share a network that is in evaluation mode already.
    """
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True
