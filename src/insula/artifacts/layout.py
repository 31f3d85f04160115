"""Where the entries of a zip go: a tree that is checked whole before the first byte is written."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from insula.artifacts.zips import MAX_ENTRIES, Entry, Zip, refuse

MAX_NAME_BYTES = 255  # NAME_MAX
MAX_PATH_BYTES = 4096 - len("/var/task//")  # PATH_MAX, as seen from inside an environment
MAX_DEPTH = 128  # also what a recursive walk, such as shutil.rmtree's, can stand
_MAX_HOPS = 40  # the kernel's own bound, path_resolution(7)
_MAX_STEPS = 1_000_000  # names looked at to resolve all links of one zip
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class File:
    """A regular file."""

    entry: Entry

    @property
    def mode(self) -> int:
        """0755 if anybody may execute it, else 0644: readable for every uid, never setuid."""
        return 0o755 if self.entry.mode & 0o111 else 0o644


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link. Its target is UTF-8 with surrogate escapes, so that it keeps its bytes."""

    entry: Entry
    target: str


@dataclass(slots=True)
class Folder:
    """A folder and what it holds."""

    children: dict[str, Node] = field(default_factory=dict)


Node = File | Link | Folder


def plan_layout(archive: Zip) -> Folder:
    """The tree that a zip unpacks to.

    Raises:
        InvalidParameterValueException: a name or type of an entry is hostile, two entries collide, or a
            symbolic link leads outside.
    """
    root = Folder()
    builder = _Builder(root)
    for entry in archive.entries:
        builder.add(archive, entry)
    _check_links(root)
    return root


def walk(folder: Folder, prefix: str = "") -> Iterator[tuple[str, Node]]:
    """Every node below a folder with its path, folders before what they hold."""
    for name, node in folder.children.items():
        path = f"{prefix}{name}"
        yield path, node
        if isinstance(node, Folder):
            yield from walk(node, f"{path}/")


class _Builder:
    def __init__(self, root: Folder) -> None:
        self._root = root
        self._nodes = 0
        self._explicit: set[int] = set()

    def add(self, archive: Zip, entry: Entry) -> None:
        names = _names(entry.name)
        kind = _kind(entry)
        if kind == stat.S_IFDIR:
            self._add_folder(entry, names)
            return
        if not names:
            raise refuse(f"{entry.name!r} is a file, and names the root folder.")
        parent = self._folder(entry, names[:-1])
        if names[-1] in parent.children:
            raise refuse(f"{entry.name!r} collides with another entry.")
        node = Link(entry, _target(archive, entry)) if kind == stat.S_IFLNK else File(entry)
        self._attach(parent, names[-1], node)

    def _add_folder(self, entry: Entry, names: Sequence[str]) -> None:
        if entry.size:
            raise refuse(f"{entry.name!r} is a folder with content.")
        folder = self._folder(entry, names)
        if id(folder) in self._explicit:
            raise refuse(f"{entry.name!r} is there twice.")
        self._explicit.add(id(folder))

    def _folder(self, entry: Entry, names: Sequence[str]) -> Folder:
        folder = self._root
        for name in names:
            child = folder.children.get(name)
            if child is None:
                child = Folder()
                self._attach(folder, name, child)
            elif not isinstance(child, Folder):
                raise refuse(f"{entry.name!r} collides with another entry: {name!r} is not a folder.")
            folder = child
        return folder

    def _attach(self, folder: Folder, name: str, node: Node) -> None:
        self._nodes += 1
        if self._nodes > MAX_ENTRIES:
            raise refuse(f"It has more than {MAX_ENTRIES} files and folders.")
        folder.children[name] = node


def _names(name: str) -> list[str]:
    """The path's names, ``.`` and empty ones left out."""
    if name.startswith("/") or "\\" in name or "\0" in name or _DRIVE.match(name):
        raise refuse(f"{name!r} is not a relative path with slashes.")
    names = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in names:
        raise refuse(f"{name!r} leads outside of the function's folder.")
    if any(len(part.encode()) > MAX_NAME_BYTES for part in names):
        raise refuse(f"A name is longer than {MAX_NAME_BYTES} bytes.")
    if len(name.encode()) > MAX_PATH_BYTES or len(names) > MAX_DEPTH:
        raise refuse(f"A path is longer than {MAX_PATH_BYTES} bytes or {MAX_DEPTH} folders.")
    return names


def _kind(entry: Entry) -> int:
    """S_IFREG, S_IFDIR or S_IFLNK."""
    kind, folder = stat.S_IFMT(entry.mode), entry.name.endswith("/")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        raise refuse(f"{entry.name!r} is a device, a pipe or a socket.")
    if folder and kind == stat.S_IFLNK:
        raise refuse(f"{entry.name!r} is a folder and a symbolic link at once.")
    if folder or kind == stat.S_IFDIR:
        return stat.S_IFDIR
    return kind or stat.S_IFREG


def _target(archive: Zip, entry: Entry) -> str:
    if not 0 < entry.size < MAX_PATH_BYTES:
        raise refuse(f"{entry.name!r} is a symbolic link without a proper target.")
    target = b"".join(archive.read(entry)).decode("utf-8", "surrogateescape")
    if target.startswith("/") or "\0" in target:
        raise refuse(f"{entry.name!r} is a symbolic link with an absolute target; make it relative.")
    return target


def _check_links(root: Folder) -> None:
    steps = 0
    for path, node in walk(root):
        if isinstance(node, Link):
            steps += _follow(root, path)
            if steps > _MAX_STEPS:
                raise refuse("Its symbolic links take too long to follow.")


def _follow(root: Folder, path: str) -> int:
    """Resolve a path as path_resolution(7) does, on the final layout.

    A name that does not exist ends a real lookup; here what follows it is still judged by its text.

    Returns:
        How many names were looked at.
    """
    trail: list[Node | None] = [root]
    pending = path.split("/")[::-1]
    hops = steps = 0
    while pending:
        steps += 1
        name = pending.pop()
        if name in ("", "."):
            continue
        if name == "..":
            trail.pop()
            if not trail:
                raise refuse(f"The symbolic link {path!r} leads outside of the function's folder.")
            continue
        here = trail[-1]
        node = here.children.get(name) if isinstance(here, Folder) else None
        if isinstance(node, Link):
            hops += 1
            if hops > _MAX_HOPS:
                raise refuse(f"The symbolic link {path!r} leads in a circle.")
            pending.extend(node.target.split("/")[::-1])
        else:
            trail.append(node)
    return steps
