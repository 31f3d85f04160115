"""Reading a zip hands out no more than the zip states."""

from __future__ import annotations

import pytest

from insula.artifacts.zips import CHUNK_BYTES, Zip
from insula.model.errors import InvalidParameterValueException
from tests.unit.artifacts.archives import Raw, deflate, raw_zip


@pytest.mark.parametrize("stated", [0, 1000, CHUNK_BYTES + 1])
def test_a_bomb_is_cut_off_at_its_stated_size(stated: int) -> None:
    archive = Zip(raw_zip([Raw(b"bomb", method=8, size=stated, packed=deflate(bytes(50_000_000)))]))
    handed_out: list[bytes] = []
    with pytest.raises(InvalidParameterValueException, match="size or CRC"):
        handed_out.extend(archive.read(archive.entries[0]))
    assert sum(map(len, handed_out)) <= stated


def test_pieces_are_bounded() -> None:
    archive = Zip(raw_zip([Raw(b"zeros", bytes(5_000_000), method=8), Raw(b"stored", bytes(5_000_000))]))
    for entry in archive.entries:
        pieces = list(archive.read(entry))
        assert b"".join(pieces) == bytes(5_000_000)
        assert max(map(len, pieces)) <= CHUNK_BYTES
