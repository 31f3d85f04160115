"""Zips for tests: well-formed ones, and a writer for those that no honest tool makes."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class Raw:
    """One entry, every lie possible."""

    name: bytes
    content: bytes = b""
    mode: int = 0
    method: int = 0
    flags: int = 0x800
    system: int = 3
    size: int | None = None
    crc: int | None = None
    packed: bytes | None = None
    local_name: bytes | None = None
    offset: int | None = None
    extra: bytes = b""
    date: int = 0x5D77
    time: int = 0

    def stored(self) -> bytes:
        if self.packed is not None:
            return self.packed
        return deflate(self.content) if self.method == 8 else self.content


def deflate(content: bytes) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return squeeze.compress(content) + squeeze.flush()


def raw_zip(entries: Iterable[Raw], *, count: int | None = None, comment: bytes = b"") -> bytes:
    body, directory, made = b"", b"", 0
    for entry in entries:
        packed = entry.stored()
        crc = zlib.crc32(entry.content) if entry.crc is None else entry.crc
        size = len(entry.content) if entry.size is None else entry.size
        local = entry.name if entry.local_name is None else entry.local_name
        offset = len(body) if entry.offset is None else entry.offset
        head = (entry.flags, entry.method, entry.time, entry.date, crc, len(packed), size)
        if entry.offset is None:
            body += struct.pack("<4sH4H3L2H", b"PK\x03\x04", 20, *head, len(local), 0) + local + packed
        directory += (
            struct.pack(
                "<4sBBH4H3L5H2L",
                b"PK\x01\x02",
                20,
                entry.system,
                20,
                *head,
                len(entry.name),
                len(entry.extra),
                0,
                0,
                0,
                entry.mode << 16,
                offset,
            )
            + entry.name
            + entry.extra
        )
        made += 1
    count = made if count is None else count
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory), len(body), len(comment))
    return body + directory + end + comment


def honest_zip(files: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def link(name: str, target: str) -> Raw:
    return Raw(name.encode(), target.encode(), stat.S_IFLNK | 0o777)
