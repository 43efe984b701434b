"""Finds the images below a folder, by one rule for every command.

Nothing hidden is read at any depth, nor what the programs of cameras, Macs, Windows and NAS boxes leave. Links are
followed, and each folder is read once. What is passed over is counted by kind.
"""

import collections
import glob
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from dn_jax.data import image_files
from dn_jax.errors import ConfigurationError, shown

# In small letters.
_LEFT_BEHIND = frozenset(
  {
    *("__macosx", "icon\r", "network trash folder", "temporary items", "ipod photo cache"),
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin"),
    *("system volume information", "lost+found", "found.000", "zbthumbnail.info", "picasa.ini"),
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp", "@sharebin", "~snapshot"),
    *("thmbnl", "autprint.mrk"),
  }
)
# Of files: backups, downloads that are under way, and cameras' thumbnails of films.
_LEFT_SUFFIXES = ("~", ".bak", ".tmp", ".part", ".crdownload", ".thm")

HIDDEN, FOREIGN, BROKEN = "hidden, or left by another program", "file{s} not read as images", "broken link{s}"
AGAIN, LOOSE, BESIDE = "link{s} to what is read already", "image{s} in no class folder", "folder{s} beside the halves"
CLOSED, NO_FILE = "folder{s} that cannot be opened", "neither file nor folder"


def is_left_behind(name: str, *, is_folder: bool) -> bool:
  """Whether a file or folder of this name is hidden, or what a program left."""
  small = name.casefold()
  return small.startswith(".") or small in _LEFT_BEHIND or (not is_folder and small.endswith(_LEFT_SUFFIXES))


class Passed:
  """What was passed over: how many of each kind, each place once, and the first of them."""

  def __init__(self) -> None:
    self._places: dict[str, dict[str, None]] = {}

  def add(self, kind: str, place: str) -> None:
    self._places.setdefault(kind, {})[place] = None

  def line(self) -> str | None:
    """One line, or None where nothing was passed over."""
    if not self._places:
      return None
    return "passed over: " + "; ".join(self._of(kind, list(places)) for kind, places in self._places.items())

  def _of(self, kind: str, places: list[str]) -> str:
    counted = f"{len(places):,} {kind.format(s='s' * (len(places) > 1))}"
    if kind == FOREIGN:
      suffixes = collections.Counter(os.path.splitext(place)[1].lower() or "no suffix" for place in places)
      named = ", ".join(f"{count} {shown(suffix)}" for suffix, count in suffixes.most_common(4))
      return f"{counted} ({named}{', ...' if len(suffixes) > 4 else ''})"
    return f"{counted} ({'such as ' if len(places) > 1 else ''}{shown(places[0])})"


class Children(NamedTuple):
  """Names in a folder that are not passed over, sorted: folders and image files."""

  folders: list[str]
  images: list[str]


class Walk:
  """Reads folders below a root, which a flag gave; `passed` counts what it passes over."""

  def __init__(self, root: pathlib.Path | str, flag: str = "data.dir"):
    self.passed = Passed()
    self._root, self._flag = os.fspath(root), flag
    self._above = {_identity(self._root)}
    self._children: dict[str, Children] = {}

  def children(self, folder: pathlib.Path | str) -> Children:
    """The names in a folder between the root and the classes; a link back to such a folder is a loop."""
    folder = os.fspath(folder)
    if folder not in self._children:
      self._above.add(_identity(folder))
      folders, images = [], []
      for entry in self._entries(folder):
        if not entry.is_dir():
          images.append(entry.name)
        elif entry.is_symlink() and _identity(entry.path) in self._above:
          self.passed.add(AGAIN, self._place(entry.path))
        else:
          folders.append(entry.name)
      self._children[folder] = Children(sorted(folders), sorted(images))
    return self._children[folder]

  def images(self, folder: pathlib.Path | str) -> list[str]:
    """The images below a folder, as paths from there with "/", sorted. A link is read after what it may lead to."""
    folder = os.fspath(folder)
    own, linked = [folder], collections.deque[str]()
    read, found, links = set(self._above) - {_identity(folder)}, [], []
    while own or linked:
      here = own.pop() if own else linked.popleft()
      if (identity := _identity(here)) in read:
        self.passed.add(AGAIN, self._place(here))
        continue
      read.add(identity)
      for entry in self._entries(here):
        if entry.is_dir():
          (linked if entry.is_symlink() else own).append(entry.path)
        else:
          (links if entry.is_symlink() else found).append(entry.path)
    if links:  # Only then each file is looked at.
      files = set(map(_identity, found))
      for path in sorted(links):
        if (identity := _identity(path)) in files:
          self.passed.add(AGAIN, self._place(path))
        else:
          files.add(identity)
          found.append(path)
    return sorted(os.path.relpath(path, folder).replace(os.sep, "/") for path in found)

  def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
    """Folders and image files in a folder; the rest is counted."""
    try:
      with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
      if folder == self._root:
        raise ConfigurationError(self._flag, folder, f"cannot be read ({error.strerror})") from None
      self.passed.add(CLOSED, self._place(folder))
      return
    for entry in entries:
      if kind := self._kind(entry):
        self.passed.add(kind, self._place(entry.path))
      else:
        yield entry

  def _kind(self, entry: os.DirEntry[str]) -> str | None:
    """Why an entry is passed over; None for folders and image files."""
    try:
      is_folder = entry.is_dir()
      if is_left_behind(entry.name, is_folder=is_folder):
        return HIDDEN
      if is_folder:
        return None
      if entry.is_file():
        return None if image_files.is_image(entry.path) else FOREIGN
    except OSError:  # A link that leads to itself.
      return BROKEN
    return BROKEN if entry.is_symlink() else NO_FILE

  def _place(self, path: str) -> str:
    return os.path.relpath(path, self._root)


def matches(pattern: str, passed: Passed) -> list[pathlib.Path]:
  """The image files that a pattern such as photos/**/*.jpg finds, by the rule of a walk; what it spells out is read."""
  spelt = {part for part in pathlib.Path(pattern).parts if not glob.has_magic(part)}
  found = []
  for name in sorted(glob.glob(pattern, recursive=True)):
    path = pathlib.Path(name)
    named = [*((part, True) for part in path.parts[:-1]), (path.name, path.is_dir())]
    if any(is_left_behind(part, is_folder=folder) for part, folder in named if part not in {*spelt, "..", "."}):
      passed.add(HIDDEN, name)
    elif path.is_file():
      if image_files.is_image(name):
        found.append(path)
      else:
        passed.add(FOREIGN, name)
  return found


def _identity(path: str) -> tuple[int, int]:
  """Of a file or folder, whatever names lead to it; a path that is gone is like no other."""
  try:
    found = os.stat(path)
  except OSError:
    return -1, hash(path)
  return found.st_dev, found.st_ino
