"""Finds, downloads and verifies models from the Hugging Face hub, and keeps them in the data folder.

huggingface_hub resolves an address to a commit, lists its files, and provides the user's token. The files are
downloaded by io/download.py and written only after their checksums match: the library's own download has no deadline,
and writes files before they are checked.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from pocket_resnet.errors import ArtifactError
from pocket_resnet.extras import require_extra
from pocket_resnet.io import sums
from pocket_resnet.io.data_dir import default_data_dir
from pocket_resnet.io.download import CONNECT_TIMEOUT_S, RefusedError, fetch_bytes, progress
from pocket_resnet.io.files import (
    MAX_SUMS_BYTES,
    SUMS_NAME,
    read_folder,
    remove_temporaries,
    write_folder,
    write_text,
)
from pocket_resnet.io.hub_address import Address, parse_address
from pocket_resnet.io.hub_faults import UnreachableFault, explain_hub_errors, headers, refused
from pocket_resnet.io.locks import exclusive

PICKLE_SUFFIXES = (".bin", ".ckpt", ".h5", ".joblib", ".npy", ".pickle", ".pkl", ".pt", ".pth")
"""Files of other libraries' models that can run code when they are loaded."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_log = logging.getLogger(__name__)


class ModelFiles(NamedTuple):
    """The files of a model directory."""

    max_bytes: Mapping[str, int]
    """Maximum size of each file in bytes, by name; other files of a repository are never downloaded."""
    required: tuple[str, ...]
    """The files that every model has."""


class _Files(NamedTuple):
    """The known files of a model on the hub."""

    commit: str
    num_bytes: dict[str, int]
    """Size of each known file by name."""


def fetch_model(path: Path, model_files: ModelFiles) -> Path:
    """The folder with the model at this address (see `is_address`), downloaded first if it is missing.

    If the hub cannot be reached, an earlier copy of the same revision is used, with a warning.
    Raises UsageError for an invalid address, EnvironmentFault if the hub or the network fails, ArtifactError
    for a repository without a model of this package, too large files, and files that differ from their sums.
    """
    address = parse_address(path)
    kept = default_data_dir() / "hub" / address.repository
    if _COMMIT.fullmatch(address.revision) and _is_whole(kept / address.revision, model_files):
        return kept / address.revision
    require_extra("hub", "the hub")
    named = kept / "revisions" / quote(address.revision, safe="")
    try:
        files = _look_up(address, model_files)
    except UnreachableFault as fault:
        folder = kept / _read_commit(named)
        if not _is_whole(folder, model_files):
            raise
        _log.warning("%s: %s; using the copy of commit %.12s in %s", address, fault.what, folder.name, folder)
        return folder
    folder = kept / files.commit
    if not _is_whole(folder, model_files):
        with exclusive(kept):
            remove_temporaries(kept)
            if not _is_whole(folder, model_files):  # another process may have been faster
                write_folder(folder, _download(address, files, model_files))
    if _read_commit(named) != files.commit:
        write_text(named, files.commit)
    return folder


def _look_up(address: Address, model_files: ModelFiles) -> _Files:
    """The commit and the sizes of its known files, all of which are within their limits."""
    from huggingface_hub import HfApi

    sent = headers()
    with explain_hub_errors(str(address)):
        info = HfApi(headers=sent).model_info(
            address.repository, revision=address.revision, files_metadata=True, timeout=CONNECT_TIMEOUT_S
        )
        sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or []}
        if not _COMMIT.fullmatch(commit := str(info.sha)):  # it names a folder here
            raise ValueError
    if missing := [name for name in (*model_files.required, SUMS_NAME) if name not in sizes]:
        raise _no_model(address, missing, sorted(name for name in sizes if name.endswith(PICKLE_SUFFIXES)))
    limits = {**model_files.max_bytes, SUMS_NAME: MAX_SUMS_BYTES}
    known = {name: size for name, size in sizes.items() if name in limits}
    for name, size in known.items():
        if type(size) is not int or not 0 <= size <= limits[name]:
            what = f"{name} has {size!r} bytes, the limit is {limits[name]:,}"
            raise ArtifactError(what, where=str(address), hint="use another model")
    return _Files(commit, known)  # type: ignore[arg-type]


def _no_model(address: Address, missing: list[str], pickles: list[str]) -> ArtifactError:
    if pickles:
        what = f"its model is a pickle ({pickles[0]}), which can run code when it is loaded; it was not downloaded"
    else:
        what = f"no model of pocket-resnet: {', '.join(missing)} missing"
    return ArtifactError(what, where=str(address), hint="use a model that was uploaded with `pocket-resnet push`")


def _download(address: Address, files: _Files, model_files: ModelFiles) -> dict[str, bytes]:
    """The content of the known files by name, verified; without their SHA256SUMS, which `write_folder` writes again."""
    from huggingface_hub import constants

    place, sent = f"{constants.ENDPOINT}/{address.repository}/resolve/{files.commit}", headers()
    contents = {}
    try:
        with progress(str(address), sum(files.num_bytes.values())) as advance:
            for name, num_bytes in files.num_bytes.items():
                contents[name] = fetch_bytes(f"{place}/{name}", num_bytes, sent, advance)
    except RefusedError as refusal:
        raise refused(refusal.status, str(address)) from refusal
    recorded = sums.parse(contents.pop(SUMS_NAME), f"{address}: {SUMS_NAME}")
    summed = {name for name in contents if not name.endswith(".md")}
    if differing := summed ^ (recorded.keys() & model_files.max_bytes.keys()):
        what = f"{', '.join(sorted(differing))}: either the file or its sum is missing"
        raise ArtifactError(what, where=str(address))
    for name in summed:
        sums.check(contents[name], recorded[name], f"{address}: {name}")
    return contents


def _is_whole(folder: Path, model_files: ModelFiles) -> bool:
    """Whether the model is there and undamaged."""
    try:
        read_folder(folder, model_files.required, max(model_files.max_bytes.values()))
    except ArtifactError:
        return False
    return True


def _read_commit(named: Path) -> str:
    """The commit that the revision last referred to; `none` if it is not known."""
    try:
        commit = named.read_text(encoding="ascii")
    except (OSError, ValueError):
        return "none"
    return commit if _COMMIT.fullmatch(commit) else "none"
