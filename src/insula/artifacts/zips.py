"""Reading zip files that an enemy may have made.

The central directory is parsed here and nothing in it is believed: sizes, CRC and the end of the data are
checked while reading, every local header must agree with its entry, and no two entries may share bytes.

Source: APPNOTE.TXT 6.3.10, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT; section numbers below
are its own.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

from insula.model.errors import InvalidParameterValueException
from insula.model.limits import UNZIPPED_BYTES

MAX_ENTRIES = 100_000
CHUNK_BYTES = 1024 * 1024
_STEP_BYTES = 64 * 1024  # of compressed data at once

_END = struct.Struct("<4s4H2LH")  # 4.3.16
_END64_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_CENTRAL = struct.Struct("<4s4B4HL2L5H2L")  # 4.3.12
_LOCAL = struct.Struct("<4s2B4HL2L2H")  # 4.3.7
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _UTF8 = 0x2041, 0x800  # bits 0, 6 and 13; bit 11 (4.4.4)
_UNIX_SYSTEMS = frozenset({3, 19})  # Unix and macOS keep a file mode in the external attributes (4.4.2)
_NOT_A_ZIP = "Could not unzip uploaded file. Please check your file, then try to upload again."
_TOO_LARGE = f"Unzipped size must be smaller than {UNZIPPED_BYTES} bytes"
_EMPTY = "Uploaded file must be a non-empty zip"
_FIRST_DATE = datetime(1980, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a zip.

    Attributes:
        name: as written in the zip.
        mode: Unix file mode, type bits included; 0 if the zip has none.
        modified: unix seconds; a zip knows no time zone, UTC is assumed.
        size: bytes when unpacked, as the zip says; ``Zip.read`` holds it to that.
        start: where its local header begins.
        data: where its compressed bytes begin.
        end: where they end.
    """

    name: str
    mode: int
    modified: float
    size: int
    crc: int
    method: int
    start: int
    data: int
    end: int


def refuse(reason: str = "") -> InvalidParameterValueException:
    """The error for a zip that cannot be unpacked, with Insula's reason after AWS's text."""
    return InvalidParameterValueException(f"{_NOT_A_ZIP} {reason}".rstrip())


class Zip:
    """A zip held in memory whose structure was found sound.

    Raises:
        InvalidParameterValueException: it is not a zip, broken, hostile, empty, or would unpack to too much.
    """

    def __init__(self, content: bytes) -> None:
        if not content:
            raise InvalidParameterValueException(_EMPTY)
        self._content = content
        try:
            self.entries = self._parse()
        except struct.error as error:
            raise refuse("It ends too early.") from error
        if not self.entries:
            raise InvalidParameterValueException(_EMPTY)
        if self.unpacked_size >= UNZIPPED_BYTES:
            raise InvalidParameterValueException(_TOO_LARGE)

    @property
    def unpacked_size(self) -> int:
        """Bytes of all entries when unpacked."""
        return sum(entry.size for entry in self.entries)

    def read(self, entry: Entry) -> Iterator[bytes]:
        """The entry's content in pieces of at most ``CHUNK_BYTES``.

        Raises:
            InvalidParameterValueException: its size or CRC is not what the zip says.
        """
        size = crc = 0
        for piece in self._pieces(entry):
            size += len(piece)
            if size > entry.size:
                break
            crc = zlib.crc32(piece, crc)
            yield piece
        if size != entry.size or crc != entry.crc:
            raise refuse(f"{entry.name!r} is not of the size or CRC that the zip states.")

    def _pieces(self, entry: Entry) -> Iterator[bytes]:
        packed = memoryview(self._content)[entry.data : entry.end]
        if entry.method == _STORED:
            for at in range(0, len(packed), CHUNK_BYTES):
                yield bytes(packed[at : at + CHUNK_BYTES])
            return
        yield from _inflate(packed, entry.name)

    def _parse(self) -> list[Entry]:
        end = self._find_end()
        count, size, offset, end = self._directory(end)
        if count > MAX_ENTRIES:
            raise refuse(f"It has {count} entries, and {MAX_ENTRIES} are allowed.")
        shift = end - size - offset  # bytes in front of the zip, as in a self-extracting one
        if shift < 0:
            raise refuse("Its central directory lies outside of it.")
        at, entries = end - size, []
        directory = at
        for _ in range(count):
            entry, at = self._entry(at, shift, directory)
            entries.append(entry)
        if at != end:
            raise refuse("Its central directory is not of the size that it states.")
        _check_overlap(entries)
        return entries

    def _find_end(self) -> int:
        """Where the end record is: its comment must reach exactly to the end of the file."""
        content = self._content
        at = len(content)
        while (at := content.rfind(b"PK\x05\x06", max(0, len(content) - 65_557), at)) >= 0:
            if len(content) - at >= _END.size:
                comment = _END.unpack_from(content, at)[-1]
                if at + _END.size + comment == len(content):
                    return at
        raise refuse()

    def _directory(self, end: int) -> tuple[int, int, int, int]:
        """Count, size and offset of the central directory, and where it ends."""
        _, disk, first_disk, here, count, size, offset, _ = _END.unpack_from(self._content, end)
        locator = end - _END64_LOCATOR.size
        if locator >= 0 and self._content.startswith(b"PK\x06\x07", locator):
            at = locator - _END64.size  # no extensible data: nothing uses it
            if at < 0 or not self._content.startswith(b"PK\x06\x06", at):
                raise refuse("Its zip64 end record is not where it should be.")
            _, _, _, _, disk, first_disk, here, count, size, offset = _END64.unpack_from(self._content, at)
            end = at
        if disk or first_disk or here != count:
            raise refuse("It is a part of a zip of several files.")
        return count, size, offset, end

    def _entry(self, at: int, shift: int, directory: int) -> tuple[Entry, int]:
        """The entry whose central header is at a position, and the position of the next."""
        header = _CENTRAL.unpack_from(self._content, at)
        signature, _, system, _, _, flags, method, time, date, crc = header[:10]
        packed, size, name_length, extra_length, comment_length, disk, _, attributes, offset = header[10:]
        if signature != b"PK\x01\x02" or disk not in (0, 0xFFFF):
            raise refuse("Its central directory is damaged.")
        at += _CENTRAL.size
        raw_name = self._content[at : at + name_length]
        extra = self._content[at + name_length : at + name_length + extra_length]
        size, packed, offset = _widen(extra, size, packed, offset)
        name = _decode(raw_name, flags, system)
        if flags & _ENCRYPTED:
            raise refuse(f"{name!r} is encrypted.")
        if method not in (_STORED, _DEFLATED):
            raise refuse(f"{name!r} is compressed with method {method}; use deflate.")
        start = offset + shift
        data = self._data(start, raw_name, method)
        if data + packed > directory:
            raise refuse(f"{name!r} lies outside of the zip.")
        mode = attributes >> 16 if system in _UNIX_SYSTEMS else 0
        entry = Entry(name, mode, _timestamp(date, time), size, crc, method, start, data, data + packed)
        return entry, at + name_length + extra_length + comment_length

    def _data(self, start: int, raw_name: bytes, method: int) -> int:
        """Where the data of the local header at ``start`` begins; the header must agree with its entry."""
        if start > len(self._content):
            raise refuse("An entry lies outside of the zip.")
        header = _LOCAL.unpack_from(self._content, start)
        name = start + _LOCAL.size
        signature, local_method, name_length, extra_length = header[0], header[4], header[-2], header[-1]
        local_name = self._content[name : name + name_length]
        if signature != b"PK\x03\x04" or local_method != method or local_name != raw_name:
            raise refuse("A local header disagrees with the central directory.")
        return int(name + name_length + extra_length)


def _inflate(packed: memoryview, name: str) -> Iterator[bytes]:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    at, tail = 0, b""
    try:
        while not inflate.eof:
            if not tail:
                tail = bytes(packed[at : at + _STEP_BYTES])
                at += _STEP_BYTES
            piece = inflate.decompress(tail, CHUNK_BYTES)
            tail = inflate.unconsumed_tail
            if piece:
                yield piece
            elif not tail and at >= len(packed) and not inflate.eof:
                raise refuse(f"{name!r} ends too early.")
    except zlib.error as error:
        raise refuse(f"{name!r} is damaged.") from error
    if inflate.unused_data or at < len(packed):
        raise refuse(f"{name!r} has bytes behind its end.")


def _widen(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Replace the values that a zip64 field holds because they do not fit (4.5.3)."""
    values = [size, packed, offset]
    wanted = [index for index, value in enumerate(values) if value == 0xFFFFFFFF]
    at = 0
    while wanted and at + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, at)
        if tag == 1 and length >= 8 * len(wanted):
            for position, index in enumerate(wanted):
                values[index] = struct.unpack_from("<Q", extra, at + 4 + 8 * position)[0]
            break
        at += 4 + length
    return values[0], values[1], values[2]


def _decode(name: bytes, flags: int, system: int) -> str:
    """UTF-8 if marked as such, else cp437 (appendix D); but ``zip`` on Unix does not mark its UTF-8."""
    if flags & _UTF8 or system in _UNIX_SYSTEMS:
        try:
            return name.decode("utf-8")
        except UnicodeDecodeError as error:
            if flags & _UTF8:
                raise refuse("A name is not UTF-8, though marked as such.") from error
    return name.decode("cp437")


def _timestamp(date: int, time: int) -> float:
    """Unix seconds of an MS-DOS date and time (4.4.6); a date that does not exist counts as 1980-01-01."""
    year, month, day = 1980 + (date >> 9), date >> 5 & 15, date & 31
    try:
        moment = datetime(year, month, day, time >> 11, time >> 5 & 63, (time & 31) * 2, tzinfo=UTC)
    except ValueError:
        moment = _FIRST_DATE
    return moment.timestamp()


def _check_overlap(entries: list[Entry]) -> None:
    """Entries that share compressed bytes unpack to far more than the file holds.

    Source: Fifield, "A better zip bomb", WOOT 2019.
    """
    for first, second in pairwise(sorted(entries, key=lambda entry: entry.start)):
        if second.start < first.end:
            raise refuse(f"{first.name!r} and {second.name!r} overlap.")
