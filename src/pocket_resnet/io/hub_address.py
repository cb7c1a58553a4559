"""Addresses of models on the Hugging Face hub: `hf://user/name`, or `hf://user/name@revision`."""

import re
from pathlib import Path
from typing import NamedTuple

from pocket_resnet.errors import UsageError

SCHEME = "hf:"
MAX_NAME_CHARS = 96
MAX_REVISION_CHARS = 255
NEWEST = "main"
_NAME = rf"(?=.{{1,{MAX_NAME_CHARS}}}(?:/|$))\w(?:[\w.-]*\w)?"
_REPOSITORY = re.compile(rf"(?!.*(?:\.\.|--)){_NAME}/{_NAME}(?<!\.git)", re.ASCII)
_REVISION = re.compile(r"\w+(?:[./-]\w+)*", re.ASCII)


class Address(NamedTuple):
    """A model on the hub."""

    repository: str
    """`user/name`."""
    revision: str = NEWEST
    """A branch, tag or commit."""

    def __str__(self) -> str:
        return f"hf://{self.repository}" + ("" if self.revision == NEWEST else f"@{self.revision}")


def is_address(path: Path) -> bool:
    """Whether it is an address on the hub; as a path, `hf://user/name` is `hf:/user/name`."""
    return path.parts[:1] == (SCHEME,)


def parse_address(path: Path) -> Address:
    """The parts of an address that was parsed as a path. Raises UsageError if a part is not a valid name."""
    repository, _, revision = "/".join(path.parts[1:]).partition("@")
    check_repository(repository)
    address = Address(repository, revision or NEWEST)
    if not _REVISION.fullmatch(address.revision) or len(address.revision) > MAX_REVISION_CHARS:
        raise UsageError(f"{revision!r} is not a revision", hint="give a branch, tag or commit: hf://user/name@v1")
    return address


def check_repository(name: str) -> None:
    """Raise UsageError if this cannot be the name of a repository."""
    if not _REPOSITORY.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a name on the hub",
            hint=f"give user/name: letters, digits and . _ - between them, each at most {MAX_NAME_CHARS} characters",
        )
