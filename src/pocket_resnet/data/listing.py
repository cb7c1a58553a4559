"""Lists the image files of a folder with one subfolder per class, by their names.

Hidden files, and files that operating systems and this package create, are ignored. Links inside the data set are
followed. Other links, FIFOs, sockets and devices are skipped and reported, so listing never loops, leaves the data set
or hangs.
"""

import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

IGNORED_NAMES = frozenset(
    {
        "thumbs.db",  # Windows
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "icon\r",  # macOS
        "__macosx",
        "network trash folder",
        "temporary items",
        "lost+found",  # Linux
        "@eadir",  # network storage
        "#recycle",
        "#snapshot",
        "@recycle",
        "@recently-snapshot",
        "@__thumb",
        "__pycache__",
    }
)  # compared without case; names that begin with a dot are ignored as well
_OURS = (  # folders that this package writes (run, model, report), recognised by all names of any one set
    {"recipe.toml", "checkpoints"},
    {"recipe.toml", "plots"},
    {"recipe.toml", ".lock"},
    {"config.json", "model.safetensors"},
    {"report.html", "plots"},
)
_OUR_DATA = ("folders", "index")  # in a data folder
_LOCK = {".lock"}  # the only file of a run that failed at once
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".ppm", ".pgm", ".pbm", ".tif", ".tiff")
_OUTSIDE = "links that leave the data set are not followed"
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
    """Lists parts of one data set, whose root is a real path, and collects what was skipped and why."""

    root: Path
    skipped: dict[str, str] = field(default_factory=dict)
    _top: list[os.DirEntry[str]] | None = None
    """The visible entries of the root, which are needed several times."""

    def folders(self, folder: Path) -> list[str]:
        """The sorted names of the visible subfolders, and of links to folders inside the data set."""
        real = folder.resolve()
        return [entry.name for entry in self._visible(folder) if self._folder(entry, real)]

    def classes(self, part: Path) -> dict[str, list[ImageFile]]:
        """Class name -> its files at any depth, both sorted; files beside the class folders are skipped."""
        real, names = part.resolve(), []
        for entry in self._visible(part):
            if self._folder(entry, real):
                names.append(entry.name)
            elif self._regular(entry):
                self._skip(entry.path, "not in a class folder")
        return {name: sorted(self._walk(part / name, name), key=lambda image: image.relative) for name in names}

    def images(self) -> list[Path]:
        """All regular files at any depth, sorted, except those that neither name nor content makes an image."""
        from pocket_resnet.data.image import is_image  # imports Pillow, which --help does without

        images = []
        for path in sorted(self.root / file.relative for file in self._walk(self.root, "")):
            if path.name.casefold().endswith(_PICTURES) or is_image(path):
                images.append(path)
            else:
                self._skip(path, "not an image")
        return images

    def has_files(self, folder: Path) -> bool:
        """Whether this folder itself contains a visible file."""
        real = folder.resolve()
        return any(not self._folder(entry, real) for entry in self._visible(folder))

    def skipped_lines(self) -> list[str]:
        """A line about links that leave the data set, and one about other skipped files so far."""
        links = [path for path, why in self.skipped.items() if why == _OUTSIDE]
        others = [f"{path} ({why})" for path, why in self.skipped.items() if why != _OUTSIDE]
        return [
            *([f"{_OUTSIDE} ({len(links):,}): {_shown(links)}"] if links else []),
            *([f"{len(others):,} skipped: {_shown(others)}"] if others else []),
        ]

    def _walk(self, folder: Path, class_name: str) -> Iterator[ImageFile]:
        """Links to folders come last, so that a folder inside the class is listed under its own name."""
        pending, links, seen = [(folder, folder.resolve())], deque[tuple[Path, Path]](), set[Path]()
        while pending or links:
            folder, real = pending.pop() if pending else links.popleft()
            if real in seen:
                self._skip(folder, "the same folder as one already listed")
                continue
            seen.add(real)
            prefix = "" if folder == self.root else f"{folder.relative_to(self.root).as_posix()}/"
            for entry in self._visible(folder):
                if target := self._folder(entry, real):
                    (links if entry.is_symlink() else pending).append((folder / entry.name, target))
                elif status := self._regular(entry):
                    stamp = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
                    yield ImageFile(prefix + entry.name, class_name, *stamp)

    def _visible(self, folder: Path) -> list[os.DirEntry[str]]:
        """The folder's entries that may belong to the data set, sorted by name."""
        if folder == self.root and self._top is not None:
            return self._top
        visible = [entry for entry in self._scan(folder) if not self._skip_ours(entry)]
        if folder == self.root:
            self._top = visible
        return visible

    def _scan(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                visible = [entry for entry in entries if not _is_ignored(entry.name)]
        except OSError as error:
            self._skip(folder, error.strerror or "cannot be read")
            return []
        return sorted(visible, key=lambda entry: entry.name)

    def _folder(self, entry: os.DirEntry[str], real_parent: Path) -> Path | None:
        """The real path of a folder or of a link to one inside the data set; skips links to others."""
        if not entry.is_symlink():
            return real_parent / entry.name if entry.is_dir() else None
        if not os.path.isdir(entry.path):  # noqa: PTH112, since Path.is_dir may raise if links loop
            return None
        target = Path(entry.path).resolve()
        if target.is_relative_to(self.root) and not real_parent.is_relative_to(target):
            return target
        self._skip(entry.path, "link to a parent folder" if real_parent.is_relative_to(target) else _OUTSIDE)
        return None

    def _regular(self, entry: os.DirEntry[str]) -> os.stat_result | None:
        """The status of a regular file inside the data set, or of a link to one; skips others."""
        try:
            status = entry.stat()
            is_inside = not entry.is_symlink() or Path(entry.path).resolve().is_relative_to(self.root)
        except (OSError, RuntimeError):  # RuntimeError: a loop of links
            self._skip(entry.path, "broken link")
            return None
        if is_inside and stat.S_ISREG(status.st_mode):
            return status
        self._skip(entry.path, "not a regular file" if is_inside else _OUTSIDE)
        return None

    def _skip_ours(self, entry: os.DirEntry[str]) -> bool:
        is_ours = entry.is_dir(follow_symlinks=False) and _is_ours(entry.path)
        if is_ours:
            self._skip(entry.path, "written by pocket-resnet")
        return is_ours

    def _skip(self, path: str | Path, why: str) -> None:
        """Record why the path is skipped; the first reason is kept."""
        self.skipped.setdefault(printable(str(Path(path).relative_to(self.root))), why)


def printable(text: str) -> str:
    """The text on one line: newlines and bytes that are not text are escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.casefold() in IGNORED_NAMES


def _is_ours(folder: str) -> bool:
    """Whether this package wrote the folder, or it contains only such folders."""
    try:
        entries = _entries(folder)
        rest = [entry for entry in entries if not (_is_ignored(entry.name) or entry.is_symlink())]
        is_around = all(entry.is_dir() and _is_marked(entry.path, _entries(entry.path)) for entry in rest)
        return _is_marked(folder, entries) or (is_around and bool(rest))
    except OSError:
        return False


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _is_marked(folder: str, entries: list[os.DirEntry[str]]) -> bool:
    """Whether these entries are those of a folder that the package writes; never if there are pictures among them."""
    names = {entry.name for entry in entries}
    if any(name.casefold().endswith(_PICTURES) for name in names):
        return False
    is_data = _OUR_DATA[0] in names and Path(folder, *_OUR_DATA).is_dir()
    return is_data or names == _LOCK or any(ours <= names for ours in _OURS)


def _shown(paths: list[str]) -> str:
    more = f" and {len(paths) - _MAX_SHOWN:,} more" if len(paths) > _MAX_SHOWN else ""
    return ", ".join(paths[:_MAX_SHOWN]) + more
