"""The image files of a folder with one subfolder a class, listed without opening or following anything odd.

Hidden files are none of our business. Links to folders, links that leave the data set, FIFOs, sockets and
devices are skipped and reported, so nothing loops, escapes or hangs.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

JUNK = (
    "Thumbs.db",
    "desktop.ini",
    "__MACOSX",
)  # what systems leave beside pictures; their other files are hidden
_MAX_SHOWN = 5


@dataclass(frozen=True, order=True)
class ImageFile:
    """A regular file in a class folder. `relative` is its path inside the data set, with `/`."""

    relative: str
    class_name: str
    num_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int


@dataclass
class Listing:
    """Lists parts of one data set and collects what was skipped, as `path (why)`."""

    root: Path
    skipped: list[str] = field(default_factory=list)

    def folders(self, folder: Path) -> list[str]:
        """The sorted names of the visible subfolders; links to folders are skipped."""
        return [entry.name for entry in self._visible(folder) if entry.is_dir(follow_symlinks=False)]

    def classes(self, part: Path) -> dict[str, list[ImageFile]]:
        """Class name -> its files at any depth, both sorted; files beside the class folders are skipped."""
        for entry in self._visible(part):
            if not entry.is_dir(follow_symlinks=False):
                self._skip(entry.path, "link to a folder" if Path(entry).is_dir() else "not in a class folder")
        return {name: sorted(self._walk(part / name, name)) for name in self.folders(part)}

    def files(self) -> list[Path]:
        """All regular files at any depth, sorted."""
        return sorted(self.root / image.relative for image in self._walk(self.root, ""))

    def remarks(self) -> list[str]:
        """A line about what was skipped so far, or none."""
        if not self.skipped:
            return []
        more = f" and {len(self.skipped) - _MAX_SHOWN} more" if len(self.skipped) > _MAX_SHOWN else ""
        return [f"{len(self.skipped)} skipped: {', '.join(self.skipped[:_MAX_SHOWN])}{more}"]

    def _walk(self, folder: Path, class_name: str) -> Iterator[ImageFile]:
        pending = [folder]
        while pending:
            for entry in self._visible(pending.pop()):
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                elif status := self._regular(entry):
                    relative = Path(entry.path).relative_to(self.root).as_posix()
                    stamp = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
                    yield ImageFile(relative, class_name, *stamp)

    def _visible(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".") and entry.name not in JUNK]
        except OSError as error:
            self._skip(folder, error.strerror or "cannot be read")
            return []
        return sorted(visible, key=lambda entry: entry.name)

    def _regular(self, entry: os.DirEntry[str]) -> os.stat_result | None:
        """The status of a regular file inside the data set, or of a link to one; skips others."""
        try:
            status = entry.stat()
            is_inside = not entry.is_symlink() or Path(entry.path).resolve().is_relative_to(self.root)
        except (OSError, RuntimeError):  # RuntimeError: a loop of links
            self._skip(entry.path, "link to nowhere")
            return None
        if stat.S_ISREG(status.st_mode) and is_inside:
            return status
        is_link = entry.is_symlink()
        self._skip(entry.path, "link to a folder or out of the data set" if is_link else "not a regular file")
        return None

    def _skip(self, path: str | Path, why: str) -> None:
        self.skipped.append(f"{printable(str(Path(path).relative_to(self.root)))} ({why})")


def printable(text: str) -> str:
    """The text on one line: newlines and bytes that are no text are shown as escapes."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
