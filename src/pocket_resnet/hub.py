"""Uploads models to the Hugging Face hub; io/hub.py downloads them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pocket_resnet.errors import ArtifactError, EnvironmentFault, UsageError
from pocket_resnet.extras import require_extra
from pocket_resnet.io import sums
from pocket_resnet.io.files import SUMS_NAME, expanded, is_listed, read_folder
from pocket_resnet.io.hub_address import Address, check_repository
from pocket_resnet.io.hub_faults import LOGIN_HINT, explain_hub_errors, headers
from pocket_resnet.model.artifact import CARD_NAME, DIGESTS_NAME, FILES, MAX_CARD_BYTES, find_model, load_model
from pocket_resnet.model.card import UNKNOWN_LICENCE, Card, front_matter, markdown

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pushed:
    """The result of `push`."""

    address: str
    """The address that `load` accepts."""
    url: str | None
    """The repository's page; None in a dry run."""
    commit: str | None
    """The commit with these files; None in a dry run."""
    num_bytes: dict[str, int]
    """Size of each file by name."""


def push(model: str | Path, repository: str, *, private: bool = False, dry_run: bool = False) -> Pushed:
    """Upload a model's known files in one commit to `user/name`, which is created if it does not exist.

    `model` is as in `load`. A `private` repository is created private, and refused if it exists and is public.
    `dry_run` verifies the model and sends nothing. Needs the extra `hub` and a token (docs/hub.md). Raises UsageError
    for an unknown model or invalid name, ArtifactError for a damaged model, EnvironmentFault if the hub or the network
    fails.

    Example:

        pushed = pocket_resnet.push("runs/latest", "user/name")
        print(pushed.url, pushed.address)
    """
    check_repository(repository)
    address, folder = str(Address(repository)), find_model(expanded(model))
    _, card = load_model(folder)
    contents = _contents(folder, card)
    num_bytes = {name: len(content) for name, content in contents.items()}
    if dry_run:
        return Pushed(address, None, None, num_bytes)
    require_extra("hub", "the hub")
    url, commit = _upload(repository, contents, private, f"Upload {card.recipe} on {card.data}")
    return Pushed(address, url, commit, num_bytes)


def _contents(folder: Path, card: Card) -> dict[str, bytes]:
    """The known files of the model by name, verified; front matter is added to a card of an earlier version.

    The digests of a folder's images are not uploaded: with them, anyone with an image could tell whether it was used.
    """
    kept_back = {CARD_NAME, DIGESTS_NAME} if card.data.endswith("/") else {CARD_NAME}
    names = [name for name in FILES if name not in kept_back and is_listed(folder, name)]
    contents = {name: read_folder(folder, (name,), FILES[name])[name] for name in names}
    contents[SUMS_NAME] = sums.of(contents)
    text = _read_text(folder / CARD_NAME) or markdown(card)
    if not text.startswith("---\n"):
        text = f"{front_matter(card)}\n{text}"
    if f"\nlicense: {UNKNOWN_LICENCE}\n" in text.partition("\n---\n")[0] + "\n":
        _log.warning("the card names no licence: set `license:` in %s before you publish", folder / CARD_NAME)
    return contents | {CARD_NAME: text.encode()}


def _read_text(path: Path) -> str:
    """The card's text; empty if there is no card."""
    if not path.exists():
        return ""
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise ValueError(f"more than {MAX_CARD_BYTES:,} bytes")
        return path.read_text(encoding="utf-8")
    except ValueError as error:
        raise ArtifactError(f"not a text: {error}", where=path, hint="remove it: a new card is made") from error


def _upload(repository: str, contents: Mapping[str, bytes], private: bool, message: str) -> tuple[str, str]:
    """The repository's page and the commit that now has these files."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import BadRequestError

    sent = headers()
    if "authorization" not in sent:
        raise EnvironmentFault("no token for the hub", where=repository, hint=LOGIN_HINT)
    api = HfApi(headers=sent)
    with explain_hub_errors(repository):
        url = api.create_repo(repository, private=private or None, exist_ok=True)
        is_public = private and not api.model_info(repository).private
    if is_public:
        raise UsageError("this repository exists and is public", where=repository, hint="choose another name")
    operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
    with explain_hub_errors(repository):
        try:
            commit = api.create_commit(repository, operations, commit_message=message)
        except ValueError as error:
            if not isinstance(error.__cause__, BadRequestError):  # raised when the hub rejects the card
                raise
            what = f"the hub does not accept the front matter of {CARD_NAME}"
            hint = "correct it, see https://huggingface.co/docs/hub/model-cards, or remove it: a new one is made"
            raise UsageError(what, where=repository, hint=hint) from None
    return str(url), commit.oid
