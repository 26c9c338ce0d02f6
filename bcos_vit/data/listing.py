"""What in a folder counts as data: class folders and the photos in them, each folder once, and no leftovers."""

from __future__ import annotations

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from bcos_vit.data.names import note_once, printable
from bcos_vit.photos import suffixes

LEFTOVERS = (
    *(".*", "*~", "~$*", "#*#", "__macosx", "__pycache__", "icon\r", "*:zone.identifier"),
    *("thumbs.db", "ehthumbs*.db", "desktop.ini", "$recycle.bin", "system volume information", "found.[0-9][0-9][0-9]"),
    *("@eadir", "@recycle", "@recently-snapshot", "@__thumb", "@tmp", "#recycle", "#snapshot"),
    *("lost+found", "lost.dir", "network trash folder", "temporary items"),
)
"""Patterns, in lower case, of hidden names and of what systems, archives, network drives and editors leave."""
_LEFTOVER = re.compile("|".join(map(fnmatch.translate, LEFTOVERS)))
HIDDEN = "hidden names and leftovers of systems"
ELSEWHERE = "folders that count elsewhere"
NO_PHOTO = "files that are no photos by their names"
BESIDE = "files beside the class folders"
NO_CLASS = "folders of no class"
Identity = tuple[int, int]


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or left by a system, an archive or an editor: no data.

    >>> is_leftover("._photo.jpg"), is_leftover("__MACOSX"), is_leftover("photo.jpg")
    (True, True, False)
    """
    return _LEFTOVER.match(name.lower()) is not None


class Listing:
    """Finds the class folders of one part of a data set and the photos in them, and counts what it leaves out.

    A folder counts once, however many links lead to it: at the place where it lies, else for the class that links to
    it. The folders around the part and those of the other parts never count.

    Parameters
    ----------
    part
        The folder that holds the class folders.
    others
        The folders of the other parts.
    """

    def __init__(self, part: Path, others: Iterable[Path] = ()) -> None:
        self.part = part
        real = part.resolve()
        self._others = [other.resolve() for other in others if other.is_dir() and other.resolve() != real]
        self._owner: dict[Identity, str | None] = {}  # the class that a folder counts for; None: for none here
        for folder in (*self._others, *(real, *real.parents)):
            self._owner[_identity(folder)] = None
        self._linked: set[Identity] = set()  # met through a link
        self._left_out: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def class_folders(self, only: Container[str] | None = None) -> dict[str, Path]:
        """Class name -> folder, sorted by name; of the classes in ``only``, where that is given.

        Raises ``ValueError`` for two folders that are one, or bear one name, and for a link to another class.
        """
        found: dict[str, Path] = {}
        places: dict[Identity, Path] = {}
        for entry in _entries(self.part):
            name, path = printable(entry.name), Path(entry.path)
            if is_leftover(entry.name):
                self._leave_out(HIDDEN, path)
            elif not _is_folder(entry):
                self._leave_out(BESIDE, path)
            elif only is not None and name not in only:
                self._leave_out(NO_CLASS, path)
            elif (identity := _identity(path)) in self._owner:
                self._leave_out(ELSEWHERE, path)
            else:
                self._reject_double(name, path, found.get(name), places.get(identity))
                found[name] = places[identity] = path
        self._owner |= {_identity(path): name for name, path in found.items()}
        return {name: found[name] for name in sorted(found)}

    def photos(self, folders: Mapping[str, Path]) -> dict[str, list[str]]:
        """Class name -> the photos in its folder and those below, sorted by folder, then by name.

        Raises ``ValueError`` for a folder to which links of two classes lead.
        """
        found: dict[str, list[str]] = {name: [] for name in folders}
        links: list[tuple[str, Path]] = []
        for name, folder in folders.items():
            links += [(name, link) for link in self._walk(name, folder, found[name])]
        while links:  # when all that lies where it belongs is known
            name, link = links.pop(0)
            if self._follow(name, link):
                links += [(name, further) for further in self._walk(name, link, found[name])]
        return {name: sorted(paths, key=os.path.split) for name, paths in found.items()}

    def say_left_out(self) -> None:
        """Note, once in a process, how much was left out and why."""
        if self._left_out:
            said = (f"{what} ({count:,}, such as {self._examples[what]})" for what, count in self._left_out.items())
            note_once(f"left out of {printable(str(self.part))}: {'; '.join(said)}")

    def _walk(self, name: str, top: Path, photos: list[str]) -> list[Path]:
        """Add the photos below ``top`` to ``photos``; returns the links to folders, which are not followed."""
        links: list[Path] = []
        folders = [top]
        while folders:
            for entry in _entries(folders.pop()):
                path = Path(entry.path) if _is_folder(entry) else None
                if is_leftover(entry.name):
                    self._leave_out(HIDDEN, entry.path)
                elif path is None:
                    if os.path.splitext(entry.name)[1].lower() in suffixes():
                        photos.append(entry.path)
                    else:
                        self._leave_out(NO_PHOTO, entry.path)
                elif entry.is_symlink():
                    links.append(path)
                elif (identity := _identity(path)) in self._owner:
                    self._leave_out(ELSEWHERE, path)
                else:
                    self._owner[identity] = name
                    folders.append(path)
        return links

    def _follow(self, name: str, link: Path) -> bool:
        identity = _identity(link)
        if identity not in self._owner and self._class_elsewhere(link) in (None, name):
            self._owner[identity] = name
            self._linked.add(identity)
            return True
        if identity in self._linked and (owner := self._owner[identity]) != name:
            raise ValueError(
                f"{printable(str(link))} and a link in {owner!r} lead to one folder, whose photos would be of two "
                "classes: remove one of the links"
            )
        self._leave_out(ELSEWHERE, link)
        return False

    def _reject_double(self, name: str, path: Path, namesake: Path | None, same: Path | None) -> None:
        where = printable(str(self.part))
        if namesake is not None:
            raise ValueError(
                f"two folders of {where} are the class {name!r}, by the names {namesake.name!a} and "
                f"{path.name!a}: merge or rename them"
            )
        if same is not None:
            raise ValueError(
                f"the class folders {printable(same.name)!r} and {name!r} of {where} are one folder, whose photos "
                "would be of two classes: remove one of them"
            )
        if path.is_symlink() and (owner := self._class_elsewhere(path)) not in (None, name):
            raise ValueError(
                f"the class folder {name!r} of {where} leads to {printable(str(path.resolve()))}, whose photos are of "
                f"{f'the class {owner!r}' if owner else 'several classes'}: remove it"
            )

    def _class_elsewhere(self, link: Path) -> str | None:
        """The class that a link's folder belongs to in another part of the data, "" for several; None outside."""
        real = link.resolve()
        for other in self._others:
            if other.is_relative_to(real):
                return ""
            if real.is_relative_to(other):
                return printable(real.relative_to(other).parts[0])
        return None

    def _leave_out(self, what: str, path: str | Path) -> None:
        self._left_out[what] += 1
        if what not in self._examples:
            self._examples[what] = printable(os.path.relpath(path, self.part))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise type(error)(f"cannot read the folder {printable(str(folder))}: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _identity(folder: Path) -> Identity:
    found = folder.stat()
    return found.st_dev, found.st_ino
