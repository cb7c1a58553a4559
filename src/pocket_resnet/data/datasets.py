"""Open data sets by name or path. `open_source` chooses the class; the rules for names are here too."""

import logging
import os
from pathlib import Path

from pocket_resnet.data import cifar
from pocket_resnet.data.cifar import Cifar
from pocket_resnet.data.digits import Digits
from pocket_resnet.data.folder import Folder
from pocket_resnet.data.names import NAMES
from pocket_resnet.data.published import CIFAR10, FAMILIES
from pocket_resnet.data.source import Source
from pocket_resnet.errors import EnvironmentFault, UsageError, did_you_mean
from pocket_resnet.io.data_dir import default_data_dir
from pocket_resnet.io.download import is_reachable
from pocket_resnet.io.files import expanded

_log = logging.getLogger(__name__)


def open_source(
    name: str | Path,
    *,
    data_dir: str | Path | None = None,
    image_size: int = 32,
    num_workers: int = 16,
    download: bool = True,
) -> Source:
    """The data set of this name (cifar10, cifar100, digits, auto) or the folder at this path.

    A name with a slash is a folder, whatever it is called; a built-in name without one is the built-in data set.
    Raises UsageError for an unknown name or an unavailable image size, DataError if data is missing or damaged,
    EnvironmentFault if it cannot be downloaded or stored.
    """
    name, data_dir = data_name(name), expanded(data_dir) if data_dir else None
    if name in NAMES and Path(name).is_dir():
        _log.warning("using the built-in data set %s; to use the folder of this name, give ./%s", name, name)
    if name == "auto":
        name = _choose(data_dir, download)
    if name in FAMILIES:
        _require_native_size(name, image_size, Cifar.image_size)
        return Cifar(FAMILIES[name], data_dir or default_data_dir(), download)
    if name == "digits":
        _require_native_size(name, image_size, Digits.image_size)
        return Digits()
    if Path(name).is_dir():
        root = Path(os.path.realpath(name))
        return Folder(root, data_dir or default_data_dir(), image_size, num_workers)
    if Path(name).is_file():
        raise UsageError("a file, not a folder", where=name, hint="give a folder with one subfolder per class")
    if "/" in name:
        hint = "check the path; if the folder has moved, give its new location"
        raise UsageError("no such folder", where=name, hint=hint)
    what = f"no data set or folder has this name{did_you_mean(name, NAMES)}"
    raise UsageError(what, where=name, hint=f"choose a folder, or one of {', '.join(NAMES)}")


def data_name(data: str | os.PathLike[str]) -> str:
    """The data's name for a recipe: a string unchanged except for `~`; a Path always as a folder, with a slash."""
    name = os.fspath(data)
    if name.startswith("~"):
        return str(expanded(name))
    return f"./{name}" if not isinstance(data, str) and "/" not in name else name


def data_exists(name: str) -> bool:
    """Whether this is a built-in data set's name, or the path of a folder."""
    return name in NAMES or Path(name).is_dir()


def _choose(data_dir: Path | None, allow_download: bool) -> str:
    """The data set that `auto` means: CIFAR-10, or digits if CIFAR-10 is missing and cannot be downloaded."""
    try:
        data_dir = data_dir or default_data_dir()
    except EnvironmentFault as fault:
        _log.warning("%s: using digits instead of CIFAR-10", fault.what)
        return "digits"
    if cifar.is_downloaded(CIFAR10, data_dir):
        return "cifar10"
    urls = cifar.urls(CIFAR10.layouts[0])
    if allow_download and any(is_reachable(url) for url in urls):
        return "cifar10"
    _log.warning("CIFAR-10 is not in %s and cannot be downloaded (%s): using digits instead", data_dir, urls[0])
    return "digits"


def _require_native_size(name: str, image_size: int, native_size: int) -> None:
    if image_size != native_size:
        raise UsageError(
            f"its images are {native_size} px, not {image_size}",
            where=name,
            hint=f"leave the image size at {native_size}",
        )
