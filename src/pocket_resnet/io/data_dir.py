"""The folder for data sets and other files that are downloaded or computed once."""

import os
from pathlib import Path

from pocket_resnet.errors import EnvironmentFault
from pocket_resnet.io.files import expanded

DATA_VARIABLE = "POCKET_RESNET_DATA"


def default_data_dir() -> Path:
    """POCKET_RESNET_DATA, else `pocket-resnet` in the user's cache folder.

    Raises EnvironmentFault if the user has no home folder.
    """
    if chosen := os.environ.get(DATA_VARIABLE):
        return expanded(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pocket-resnet"
    except RuntimeError as error:  # neither HOME nor an entry in /etc/passwd, as in some containers
        raise EnvironmentFault(
            "there is no home folder for data", hint=f"set a folder with --data-dir or {DATA_VARIABLE}"
        ) from error
