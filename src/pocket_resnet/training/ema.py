"""Averaged weights: an exponential moving average of everything the network saves."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pocket_resnet.recipe.sections import EmaRecipe


def decay_of(recipe: EmaRecipe, num_steps: int) -> float:
    """The decay per step in a run of `num_steps` steps; for a window of W steps it is 1 - 1 / W."""
    window_steps = recipe.window * num_steps
    return 1 - 1 / window_steps if window_steps > 1 else recipe.decay


class Ema:
    """The moving average of a model's weights and batch-norm statistics; with decay 0, the model itself."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live: dict[str, Tensor] = {
            name: value for name, value in model.state_dict().items() if value.is_floating_point()
        }
        self.shadow = {name: value.clone() for name, value in self.live.items()} if decay else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after optimizer step `step` (from 0); early steps weigh more, see EmaRecipe."""
        if self.decay:
            kept = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.shadow.values()), [self.live[name] for name in self.shadow], 1 - kept)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block, the model has the averaged weights."""
        with torch.no_grad():
            kept = {name: self.live[name].clone() for name in self.shadow}
            for name, value in self.shadow.items():
                self.live[name].copy_(value)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in kept.items():
                    self.live[name].copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """The average by name: the state needed to resume."""
        return self.shadow

    @torch.no_grad()
    def load_tensors(self, saved: dict[str, Tensor]) -> None:
        """Restore the state that `tensors` returned; a missing average begins with the current weights."""
        for name, value in self.shadow.items():
            value.copy_(saved.get(name, self.live[name]))
