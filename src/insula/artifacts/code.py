"""The code store: every zip once, verified, and unpacked once. One holds packages, another one layers.

``<root>/<sha256 in hex>/`` holds ``code.zip``, ``code/`` (mounted at /var/task, or /opt) and ``artifact.json``. It is
made under ``<root>/incoming/`` and appears by one rename, so whatever has a name is whole.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ctypes
import hashlib
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from insula.artifacts.layout import File, Folder, Link, plan_layout, walk
from insula.artifacts.zips import Zip
from insula.model.errors import ResourceNotFoundException

_SPARED_SECONDS = 600.0
_PARALLEL_ADDS = 2  # unpacking is bound by CPU and disk; other work needs threads too
_HEX = re.compile(r"[0-9a-f]{64}")
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A code package, or a layer's archive.

    Attributes:
        sha256: base64 of the zip's SHA-256, as in ``CodeSha256``.
        size: bytes of the zip.
        unpacked_size: bytes of all its files.
    """

    sha256: str
    size: int
    unpacked_size: int


class CodeStore:
    """Code packages in a folder that no other process writes to.

    Args:
        root: the folder; it is made if missing, and what a killed server left half done is removed.
        clock: seconds, monotonic.
    """

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock
        self._incoming = root / "incoming"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._incoming.exists():
            shutil.rmtree(self._incoming)
        self._incoming.mkdir(mode=0o700)
        self._artifacts = dict(_load(root))
        self._added: dict[str, float] = {}
        self._lock = threading.Lock()  # over both dictionaries and the names below the root
        self._slots = asyncio.Semaphore(_PARALLEL_ADDS)

    async def add(self, zipped: bytes) -> Artifact:
        """Verify, unpack and keep a zip, in a worker thread. One that is there already is not unpacked again.

        Raises:
            InvalidParameterValueException: the zip is broken, hostile or too large; nothing of it is kept.
        """
        async with self._slots:
            return await asyncio.to_thread(self._add, zipped)

    def zip_path(self, sha256: str) -> Path:
        """The zip itself.

        Raises:
            ResourceNotFoundException: there is no such package.
        """
        return self._folder(sha256) / "code.zip"

    def unpacked_path(self, sha256: str) -> Path:
        """The unpacked code, readable for every uid.

        Raises:
            ResourceNotFoundException: there is no such package.
        """
        return self._folder(sha256) / "code"

    def keep(self, sha256: str) -> Artifact:
        """A package, which ``collect`` spares for the next ten minutes: a function may be about to refer to it.

        Raises:
            ResourceNotFoundException: there is no such package.
        """
        known = self._spare(_hexadecimal(sha256))
        if known is None:
            raise ResourceNotFoundException(f"Code package not found: {sha256}")
        return known

    def total_size(self) -> int:
        """Bytes of all zips."""
        with self._lock:
            return sum(artifact.size for artifact in self._artifacts.values())

    async def collect(self, referenced: Collection[str]) -> None:
        """Remove packages that no function refers to.

        One that was added in the last ten minutes is spared: its function may be about to be created.

        Args:
            referenced: ``CodeSha256`` of all that is still needed, by running environments too.
        """
        await asyncio.to_thread(self._collect, frozenset(referenced))

    def _add(self, zipped: bytes) -> Artifact:
        digest = hashlib.sha256(zipped)
        name = digest.hexdigest()
        known = self._spare(name)
        if known:
            return known
        staging = self._incoming / secrets.token_hex(16)
        try:
            archive = Zip(zipped)
            layout = plan_layout(archive)
            sha256 = base64.b64encode(digest.digest()).decode("ascii")
            artifact = Artifact(sha256, len(zipped), archive.unpacked_size)
            _make_folder(staging)
            _make_folder(staging / "code")
            _unpack(archive, layout, staging / "code")
            _write_file(staging / "code.zip", zipped)
            _write_file(staging / "artifact.json", json.dumps(asdict(artifact)).encode("ascii"))
            _sync_filesystem(staging)
            self._publish(staging, name, artifact)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return artifact

    def _spare(self, name: str) -> Artifact | None:
        with self._lock:
            known = self._artifacts.get(name)
            if known:
                self._added[name] = self._clock()
            return known

    def _publish(self, staging: Path, name: str, artifact: Artifact) -> None:
        with self._lock:
            if name not in self._artifacts:
                staging.rename(self._root / name)
                _sync_folder(self._root)
                self._artifacts[name] = artifact
            self._added[name] = self._clock()

    def _collect(self, referenced: frozenset[str]) -> None:
        needed = {_hexadecimal(sha256) for sha256 in referenced}
        with self._lock:
            recent = self._clock() - _SPARED_SECONDS
            self._added = {name: added for name, added in self._added.items() if added > recent}
            doomed = self._artifacts.keys() - needed - self._added.keys()
            removed = [self._remove(name) for name in doomed]
        for folder in removed:
            shutil.rmtree(folder, ignore_errors=True)

    def _remove(self, name: str) -> Path:
        """Take a package out of sight; deleting its files can then take its time."""
        folder = self._incoming / secrets.token_hex(16)
        (self._root / name).rename(folder)
        del self._artifacts[name]
        return folder

    def _folder(self, sha256: str) -> Path:
        name = _hexadecimal(sha256)
        if name not in self._artifacts:
            raise ResourceNotFoundException(f"Code package not found: {sha256}")
        return self._root / name


def _hexadecimal(sha256: str) -> str:
    """The folder name of a ``CodeSha256``; the empty string, which is no folder's name, for anything else."""
    try:
        digest = base64.b64decode(sha256, validate=True)
    except (binascii.Error, ValueError):
        return ""
    return digest.hex() if len(digest) == hashlib.sha256().digest_size else ""


def _load(root: Path) -> Iterator[tuple[str, Artifact]]:
    for folder in root.iterdir():
        if _HEX.fullmatch(folder.name):
            yield folder.name, Artifact(**json.loads((folder / "artifact.json").read_bytes()))


def _unpack(archive: Zip, layout: Folder, folder: Path) -> None:
    """Write a layout into an empty folder.

    Links come last: while files are written there is none that a path could lead through.
    """
    root = os.open(folder, _FOLDER)
    try:
        nodes = [(path.encode(), node) for path, node in walk(layout)]
        for path, node in nodes:
            if isinstance(node, Folder):
                os.mkdir(path, dir_fd=root)
                os.chmod(path, 0o755, dir_fd=root)  # noqa: S103 - sandboxes have uids of their own
            elif isinstance(node, File):
                _unpack_file(archive, node, path, root)
        for path, node in nodes:
            if isinstance(node, Link):
                os.symlink(node.target.encode("utf-8", "surrogateescape"), path, dir_fd=root)
    finally:
        os.close(root)


def _unpack_file(archive: Zip, node: File, path: bytes, root: int) -> None:
    descriptor = os.open(path, _NEW_FILE, 0o600, dir_fd=root)
    with os.fdopen(descriptor, "wb") as file:
        file.writelines(archive.read(node.entry))
        file.flush()
        os.fchmod(descriptor, node.mode)
        os.utime(descriptor, (node.entry.modified, node.entry.modified))


def _make_folder(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)


def _write_file(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, _NEW_FILE, 0o600), "wb") as file:
        file.write(content)


def _sync_filesystem(folder: Path) -> None:
    """syncfs(2): one flush for all files of a package, where fsync would need one for each."""
    descriptor = os.open(folder, _FOLDER)
    try:
        if _libc.syncfs(descriptor):
            raise OSError(ctypes.get_errno(), f"syncfs failed on {folder}")
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, _FOLDER)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
