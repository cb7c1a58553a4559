"""A program for ExecuTorch: from one uint8 RGB picture of the network's size to probabilities.

It scales the picture to 0..1, then repeats `ResNet.forward` and softmax. The backend XNNPACK computes the network on
the processor. ExecuTorch has no antialiased resize, so the caller brings the picture to the network's size.

Shapes: B = 1 image, N images, C channels, S x S pixels of the network, K classes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocket_resnet.data.augment import to_float
from pocket_resnet.exporting.quiet import quiet

with quiet():  # they warn when they are imported
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime


def program(network: nn.Module, size: int, metadata: Mapping[str, str | tuple[str, ...]]) -> bytes:
    """The content of the file. `network` maps float [B, 3, S, S] from 0 to 1 to logits [B, K].

    The method `forward` takes uint8 [1, S, S, 3] and returns logits and probabilities, float [1, K]. Each entry of
    `metadata` becomes a method without arguments that returns its text or texts.
    """
    example_BSSC = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    with quiet():
        exported = torch.export.export(_Complete(network), (example_BSSC,))
        lowered = to_edge_transform_and_lower(
            exported, partitioner=[XnnpackPartitioner()], constant_methods=dict(metadata)
        )
        content: bytes = lowered.to_executorch().buffer
    return content


class _Complete(nn.Module):
    """The network with its preprocessing and softmax."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_BSSC: Tensor) -> tuple[Tensor, Tensor]:
        logits_BK = self.network(to_float(images_BSSC.permute(0, 3, 1, 2)))
        return logits_BK, logits_BK.softmax(1)


class Program:
    """A program, ready to run."""

    def __init__(self, content: bytes) -> None:
        self._program = Runtime.get().load_program(content)
        self._forward = self._program.load_method("forward")

    def logits(self, images_NSSC: NDArray[Any], batch_size: int = 1) -> NDArray[np.float32]:
        """The logits of all images, float [N, K], one at a time."""
        assert batch_size == 1
        pictures = (torch.from_numpy(image_SSC).contiguous()[None] for image_SSC in images_NSSC)
        return torch.cat([self._forward.execute([picture])[0] for picture in pictures]).numpy()
