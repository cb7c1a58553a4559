"""The content of a SHA256SUMS file, as `sha256sum` writes it: a hash, two spaces and a file's name on each line."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pocket_resnet.errors import ArtifactError


def of(files: Mapping[str, bytes]) -> bytes:
    """The sums of these files. Markdown files are left out: people may edit them."""
    return "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in files.items()
        if not name.endswith(".md")
    ).encode()


def parse(text: bytes, where: str | Path) -> dict[str, str]:
    """The SHA-256 in hexadecimal of each file by name. Raises ArtifactError for other lines and for paths."""
    recorded = {}
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64 or not name or Path(name).name != name:
            raise ArtifactError(f"line {number} is not `SHA-256  file name`", where=where)
        recorded[name] = digest
    return recorded


def check(content: bytes, recorded: str, where: str | Path) -> None:
    """Raise ArtifactError if the SHA-256 of the file's content differs from the recorded one."""
    actual = hashlib.sha256(content).hexdigest()
    if actual != recorded:
        raise ArtifactError(f"damaged: SHA-256 is {actual[:12]}…, {recorded[:12]}… was written", where=where)
