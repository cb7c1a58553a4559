"""Random numbers as pure functions of their place of use, so no generator state is ever saved.

`generator(seed, "crop", epoch)` gives the same stream on every machine, process and resume.
"""

import hashlib

import torch


def derive(seed: int, *where: int | str) -> int:
    """A 63-bit seed that depends on every part of `where`, and on nothing else."""
    text = "/".join(str(part) for part in (seed, *where))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *where: int | str) -> torch.Generator:
    """A fresh CPU generator for one use, for example `generator(seed, "order", epoch)`."""
    return torch.Generator().manual_seed(derive(seed, *where))
