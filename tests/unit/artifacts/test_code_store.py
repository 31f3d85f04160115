"""Code packages: honest ones are unpacked as they are, hostile ones are refused and leave nothing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import os
import stat
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insula.artifacts.code import Artifact, CodeStore
from insula.model.errors import InvalidParameterValueException, ResourceNotFoundException
from tests.unit.artifacts.archives import Raw, deflate, honest_zip, link, raw_zip

NOT_A_ZIP = "Could not unzip uploaded file. Please check your file, then try to upload again."
TOO_LARGE = "Unzipped size must be smaller than 262144000 bytes"
LIMIT = 262_144_000


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> CodeStore:
    return CodeStore(tmp_path / "code", clock=clock)


def add(store: CodeStore, zipped: bytes) -> Artifact:
    return asyncio.run(store.add(zipped))


def unpack(store: CodeStore, zipped: bytes) -> Path:
    return store.unpacked_path(add(store, zipped).sha256)


def refused(store: CodeStore, zipped: bytes) -> str:
    with pytest.raises(InvalidParameterValueException) as caught:
        add(store, zipped)
    root = store._root
    assert names(root) == ["incoming"]
    assert names(root / "incoming") == []
    return caught.value.message


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_honest_zip_is_unpacked(store: CodeStore, method: int) -> None:
    files = {"app.py": b"x = 1\n", "a/b/data": os.urandom(3_000_000), "empty": b"", "zeros": bytes(5_000_000)}
    zipped = honest_zip(files, method=method)
    artifact = add(store, zipped)
    assert content(store.unpacked_path(artifact.sha256)) == files
    assert store.zip_path(artifact.sha256).read_bytes() == zipped
    sha256 = base64.b64encode(hashlib.sha256(zipped).digest()).decode()
    assert artifact == Artifact(sha256, len(zipped), sum(map(len, files.values())))
    assert store.total_size() == len(zipped)


def test_a_streamed_zip64_zip_is_unpacked(store: CodeStore) -> None:
    class Unseekable(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise io.UnsupportedOperation

        def tell(self) -> int:
            raise io.UnsupportedOperation

    buffer = Unseekable()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("app.py", "w", force_zip64=True) as file,
    ):
        file.write(b"x" * 1000)
    assert content(unpack(store, buffer.getvalue())) == {"app.py": b"x" * 1000}


def test_zip64_sizes_and_end_record_are_read(store: CodeStore) -> None:
    extra = struct.pack("<2H3Q", 1, 24, 5, 5, 0)
    body = struct.pack("<4sH4H3L2H", b"PK\x03\x04", 45, 0, 0, 0, 0x5D77, 0x3610A686, 5, 5, 1, 0) + b"ahello"
    top = 0xFFFFFFFF
    head = (0, 0, 0, 0x5D77, 0x3610A686, top, top, 1, len(extra), 0, 0, 0, 0, top)
    directory = struct.pack("<4sBBH4H3L5H2L", b"PK\x01\x02", 45, 3, 45, *head) + b"a" + extra
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(directory), len(body))
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(body) + len(directory), 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, top, top, 0)
    assert content(unpack(store, body + directory + end64 + locator + end)) == {"a": b"hello"}
    wild = directory.replace(struct.pack("<3Q", 5, 5, 0), struct.pack("<3Q", 2**63, 2**63, 2**63))
    with pytest.raises(InvalidParameterValueException, match="outside"):
        add(store, body + wild + end64 + locator + end)


def test_bytes_before_and_a_comment_behind_are_accepted(store: CodeStore) -> None:
    zipped = b"#!/usr/bin/env python3\n" + raw_zip([Raw(b"a", b"1")], comment=b"PK\x05\x06 hello")
    assert content(unpack(store, zipped)) == {"a": b"1"}


def test_names_are_utf8_or_cp437(store: CodeStore) -> None:
    entries = [
        Raw("\u00fc\U0001f600".encode(), b"1"),
        Raw(b"\x81", b"2", flags=0),
        Raw("info-zip \u20ac".encode(), b"3", flags=0),
        Raw(b"\xc3\xbc", b"4", flags=0, system=0),
    ]
    assert content(unpack(store, raw_zip(entries))) == {
        "\u00fc\U0001f600": b"1",
        "\u00fc": b"2",
        "info-zip \u20ac": b"3",
        "\u251c\u255d": b"4",
    }


def test_modes_are_readable_for_all_and_never_setuid(store: CodeStore) -> None:
    folder = unpack(
        store,
        raw_zip(
            [
                Raw(b"secret", b"", stat.S_IFREG | 0o000),
                Raw(b"tool", b"", stat.S_IFREG | 0o6100),
                Raw(b"windows", b"", 0o777, system=0),
                Raw(b"closed/", b"", stat.S_IFDIR | 0o1000),
                Raw(b"closed/inner", b"", stat.S_IFREG | 0o600),
            ]
        ),
    )
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    assert modes == {"secret": 0o644, "tool": 0o755, "windows": 0o644, "closed": 0o755, "inner": 0o644}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o755


def test_modification_times_are_kept(store: CodeStore) -> None:
    impossible = Raw(b"never", date=0xFFFF, time=0xFFFF)
    dated = Raw(b"dated", date=(46 << 9) | (11 << 5) | 23, time=16 << 11)
    folder = unpack(store, raw_zip([impossible, dated]))
    assert (folder / "dated").stat().st_mtime == 1795449600.0
    assert (folder / "never").stat().st_mtime == 315532800.0


def test_links_inside_are_kept(store: CodeStore) -> None:
    entries = [
        link("lib/libx.so", "libx.so.1"),
        Raw(b"lib/libx.so.1", b"elf"),
        link("a/b/up", "../../lib"),
        link("chain", "a/b/up/libx.so"),
        link("dangling", "nowhere"),
    ]
    folder = unpack(store, raw_zip(entries))
    assert (folder / "chain").read_bytes() == b"elf"
    assert (folder / "lib/libx.so").readlink() == Path("libx.so.1")
    assert (folder / "dangling").is_symlink()


def test_a_folder_entry_may_follow_what_it_holds(store: CodeStore) -> None:
    entries = [Raw(b"./a/b", b"1"), Raw(b"a/"), Raw(b"./"), Raw(b"e", b"", stat.S_IFDIR | 0o755)]
    folder = unpack(store, raw_zip(entries))
    assert content(folder) == {"a/b": b"1"}
    assert (folder / "e").is_dir()


def test_nothing_is_an_empty_zip(store: CodeStore) -> None:
    assert refused(store, b"") == "Uploaded file must be a non-empty zip"
    assert refused(store, raw_zip([])) == "Uploaded file must be a non-empty zip"


def test_what_is_no_zip_is_refused_in_awss_words(store: CodeStore) -> None:
    assert refused(store, b"not a zip") == NOT_A_ZIP
    assert refused(store, b"PK\x05\x06") == NOT_A_ZIP


def test_too_much_is_refused_in_awss_words(store: CodeStore) -> None:
    half = LIMIT // 2
    packed = deflate(b"")
    assert refused(store, raw_zip([Raw(b"a", method=8, size=LIMIT, packed=packed)])) == TOO_LARGE
    entries = [Raw(name, method=8, size=half, packed=packed) for name in (b"a", b"b")]
    assert refused(store, raw_zip(entries)) == TOO_LARGE


def test_a_bomb_that_states_a_small_size_is_cut_off(store: CodeStore) -> None:
    bomb = Raw(b"bomb", method=8, size=1000, packed=deflate(bytes(50_000_000)))
    assert "size or CRC" in refused(store, raw_zip([bomb]))


def test_overlapping_entries_are_refused(store: CodeStore) -> None:
    first = Raw(b"a", b"x" * 100)
    assert "overlap" in refused(store, raw_zip([first, Raw(b"a", b"x" * 100, offset=0)]))


def test_a_quoted_local_header_is_refused(store: CodeStore) -> None:
    inner = raw_zip([Raw(b"b", b"y" * 10)])[: 30 + 1 + 10]
    outer = Raw(b"a", inner)
    assert "overlap" in refused(store, raw_zip([outer, Raw(b"b", b"y" * 10, offset=31)]))


def test_too_many_entries_are_refused(store: CodeStore) -> None:
    deep = [Raw(f"{i}/{'d/' * 120}f".encode()) for i in range(900)]
    assert "more than 100000" in refused(store, raw_zip(deep))


TRAVERSALS = ["/etc/passwd", "../x", "a/../../x", "a/..", "..", "\\x", "a\\..\\x", "C:/x", "c:x", "a\0b", "//x"]


@pytest.mark.parametrize("name", TRAVERSALS)
def test_names_that_lead_outside_are_refused(store: CodeStore, name: str) -> None:
    assert refused(store, raw_zip([Raw(b"ok", b"1"), Raw(name.encode(), b"x")])).startswith(NOT_A_ZIP)


@pytest.mark.parametrize("name", ["x" * 256, "\u00fc" * 128, "d/" * 129 + "f", ("x" * 250 + "/") * 17, "", ".", "./."])
def test_names_that_no_file_can_have_are_refused(store: CodeStore, name: str) -> None:
    refused(store, raw_zip([Raw(b"ok", b"1"), Raw(name.encode(), b"x")]))


@pytest.mark.parametrize("name", ["/".join(["x" * 254] * 16), "d/" * 127 + "f"])
def test_the_longest_paths_are_unpacked_and_removed(store: CodeStore, clock: Clock, name: str) -> None:
    add(store, raw_zip([Raw(name.encode(), b"1")]))
    clock.now += 601
    asyncio.run(store.collect(set()))
    assert names(store._root) == ["incoming"]
    assert names(store._incoming) == []


COLLISIONS = [
    [Raw(b"a", b"1"), Raw(b"a", b"2")],
    [Raw(b"a", b"1"), Raw(b"./a", b"2")],
    [Raw(b"a", b"1"), Raw(b"a/b", b"2")],
    [Raw(b"a/b", b"1"), Raw(b"a", b"2")],
    [Raw(b"a/"), Raw(b"a", b"2")],
    [Raw(b"a", b"1"), Raw(b"a/")],
    [Raw(b"a/"), Raw(b"a/")],
    [Raw(b"a/", b"content")],
    [Raw(b"a/", b"x", stat.S_IFLNK)],
    [link("a", "b"), Raw(b"a/x", b"2"), Raw(b"b/")],
    [Raw(b"b/"), Raw(b"a/x", b"2"), link("a", "b")],
    [link("a", "b"), Raw(b"a", b"2")],
]


@pytest.mark.parametrize("entries", COLLISIONS)
def test_collisions_are_refused(store: CodeStore, entries: list[Raw]) -> None:
    refused(store, raw_zip(entries))


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_devices_pipes_and_sockets_are_refused(store: CodeStore, kind: int) -> None:
    assert "a device, a pipe or a socket" in refused(store, raw_zip([Raw(b"a", b"", kind | 0o666)]))


ESCAPES = [
    [link("a", "/etc/passwd")],
    [link("a", "..")],
    [link("a", "../x")],
    [link("a/b", "../../x")],
    [link("a/b", "c/../../../x")],
    [Raw(b"d/e/f", b""), link("a", "d/e"), link("b", "a/../../..")],
    [link("deep/er/a", "../.."), link("b", "deep/er/a/..")],
    [link("1", "d/2"), link("d/2", "../3"), link("3", "d/../..")],
    [link("a", "b"), link("b", "a")],
    [link("a", "a")],
    [link("a", "a/x")],
    [link("a", "missing/../../x")],
    [link("a", "")],
    [link("a", "x\0y")],
    [link("a", "x" * 5000)],
]


@pytest.mark.parametrize("entries", ESCAPES)
def test_links_that_lead_outside_or_in_circles_are_refused(store: CodeStore, entries: list[Raw]) -> None:
    refused(store, raw_zip(entries))


def test_links_that_are_dear_to_follow_are_refused(store: CodeStore) -> None:
    entries = [link(str(i), "./" * 2000 + str(i + 1)) for i in range(39)]
    dear = [link(f"x{i}", "0") for i in range(100)]
    assert "too long to follow" in refused(store, raw_zip([*entries, *dear]))


LIES = {
    "crc": [Raw(b"a", b"hello", crc=1)],
    "larger size": [Raw(b"a", b"hello", size=6)],
    "smaller size": [Raw(b"a", b"hello", size=4)],
    "encrypted": [Raw(b"a", b"hello", flags=1)],
    "strongly encrypted": [Raw(b"a", b"hello", flags=0x41)],
    "bzip2": [Raw(b"a", b"hello", method=12)],
    "unknown method": [Raw(b"a", b"hello", method=99)],
    "other local name": [Raw(b"a", b"hello", local_name=b"b")],
    "invalid utf-8": [Raw(b"\xff", b"hello")],
    "offset outside": [Raw(b"a", b"hello", offset=10_000)],
    "not deflate": [Raw(b"a", b"hello", method=8, packed=b"\xff" * 10)],
    "unfinished deflate": [Raw(b"a", b"hello" * 100, method=8, packed=deflate(b"hello" * 100)[:-2])],
    "bytes behind deflate": [Raw(b"a", b"hello", method=8, packed=deflate(b"hello") + b"x")],
    "zip64 size without field": [Raw(b"a", b"hello", size=0xFFFFFFFF)],
    "zip64 size beyond all": [Raw(b"a", b"hello", size=0xFFFFFFFF, extra=struct.pack("<2HQ", 1, 8, 2**63))],
    "zip64 field cut off": [Raw(b"a", b"hello", size=0xFFFFFFFF, extra=struct.pack("<2H", 1, 8))],
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused(store: CodeStore, lie: str) -> None:
    refused(store, raw_zip([Raw(b"ok", b"1"), *LIES[lie]]))


@pytest.mark.parametrize("count", [0, 1, 3, 65535])
def test_a_false_count_is_refused(store: CodeStore, count: int) -> None:
    refused(store, raw_zip([Raw(b"a", b"1"), Raw(b"b", b"2")], count=count))


def test_every_truncation_is_refused(store: CodeStore) -> None:
    zipped = honest_zip({"a": b"hello", "b/c": b"world" * 50})
    for length in range(len(zipped)):
        refused(store, zipped[:length])


def test_the_same_zip_at_once_is_kept_once(store: CodeStore) -> None:
    zipped = honest_zip({"a": b"1"})

    async def scenario() -> list[Artifact]:
        return await asyncio.gather(*(store.add(zipped) for _ in range(10)))

    assert len(set(asyncio.run(scenario()))) == 1
    assert store.total_size() == len(zipped)
    assert names(store._incoming) == []


def test_packages_survive_a_restart_and_leftovers_do_not(store: CodeStore) -> None:
    artifact = add(store, honest_zip({"a": b"1"}))
    leftover = store._incoming / "half"
    leftover.mkdir()
    (leftover / "code.zip").write_bytes(b"x")
    again = CodeStore(store._root)
    assert content(again.unpacked_path(artifact.sha256)) == {"a": b"1"}
    assert again.total_size() == artifact.size
    assert names(again._incoming) == []


@pytest.mark.parametrize("sha256", ["", "../../x", "aGVsbG8=", base64.b64encode(bytes(32)).decode(), "\u00fc"])
def test_an_unknown_package_is_not_found(store: CodeStore, sha256: str) -> None:
    with pytest.raises(ResourceNotFoundException):
        store.unpacked_path(sha256)
    with pytest.raises(ResourceNotFoundException):
        store.zip_path(sha256)


def test_collect_removes_what_nobody_needs(store: CodeStore, clock: Clock) -> None:
    kept, gone = (add(store, honest_zip({"a": content})) for content in (b"1", b"2"))
    clock.now += 601
    asyncio.run(store.collect({kept.sha256}))
    assert store.unpacked_path(kept.sha256).is_dir()
    with pytest.raises(ResourceNotFoundException):
        store.unpacked_path(gone.sha256)
    assert len(names(store._root)) == 2
    assert names(store._incoming) == []
    assert store.total_size() == kept.size


def test_collect_spares_what_was_just_added_again(store: CodeStore, clock: Clock) -> None:
    zipped = honest_zip({"a": b"1"})
    add(store, zipped)
    clock.now += 601
    artifact = add(store, zipped)
    asyncio.run(store.collect(set()))
    assert store.unpacked_path(artifact.sha256).is_dir()


def test_collect_spares_what_was_asked_to_be_kept(store: CodeStore, clock: Clock) -> None:
    artifact = add(store, honest_zip({"a": b"1"}))
    clock.now += 601
    assert store.keep(artifact.sha256) == artifact
    asyncio.run(store.collect(set()))
    assert store.unpacked_path(artifact.sha256).is_dir()
    clock.now += 601
    asyncio.run(store.collect(set()))
    for sha256 in (artifact.sha256, "../../x"):
        with pytest.raises(ResourceNotFoundException):
            store.keep(sha256)


_SEEDS = [
    honest_zip({"app.py": b"x = 1\n" * 20, "lib/y.py": b"", "z": b"q" * 300}),
    raw_zip([Raw(b"lib/x", b"1"), link("l", "lib/x"), link("lib/up", "../l"), Raw(b"d/", b"", stat.S_IFDIR)]),
    raw_zip([Raw(b"a", b"hello" * 9, method=8), Raw(b"b/c/d", b"2", stat.S_IFREG | 0o755)], comment=b"hi"),
]
_edits = st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=0, max_size=6), st.integers(0, 4)), max_size=6)


@pytest.fixture(scope="module")
def shared_store() -> Iterator[CodeStore]:
    with tempfile.TemporaryDirectory() as folder:
        yield CodeStore(Path(folder) / "inner" / "code")


@settings(max_examples=400, deadline=None)
@given(seed=st.sampled_from(_SEEDS), edits=_edits)
def test_no_mutation_escapes_or_breaks(
    shared_store: CodeStore, seed: bytes, edits: list[tuple[int, bytes, int]]
) -> None:
    mutated = bytearray(seed)
    for at, replacement, removed in edits:
        position = at % (len(mutated) + 1)
        mutated[position : position + removed] = replacement
    _check_outcome(shared_store, bytes(mutated))


_names = st.one_of(
    st.text(st.sampled_from("ab./\\:\0\u00fc"), max_size=8), st.sampled_from(["a", "b", "a/b", "a/b/a", "b/a"])
)
_entries = st.builds(
    Raw,
    name=_names.map(str.encode),
    content=st.one_of(st.binary(max_size=5), _names.map(str.encode), st.sampled_from([b"..", b"../..", b"a/.."])),
    mode=st.sampled_from([0, 0o120777, 0o120777, 0o100644, 0o040755, 0o010644, 0o104755]),
    method=st.sampled_from([0, 8]),
    flags=st.sampled_from([0, 0x800, 0x808]),
)


@settings(max_examples=600, deadline=None)
@given(entries=st.lists(_entries, max_size=6))
def test_no_layout_escapes_or_breaks(shared_store: CodeStore, entries: list[Raw]) -> None:
    _check_outcome(shared_store, raw_zip(entries))


def _check_outcome(store: CodeStore, zipped: bytes) -> None:
    try:
        folder = unpack(store, zipped).resolve()
    except InvalidParameterValueException:
        pass
    else:
        for path in folder.rglob("*"):
            assert path.resolve().is_relative_to(folder)
            assert stat.S_IFMT(path.lstat().st_mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
    assert names(store._incoming) == []
    assert names(store._root.parent) == ["code"]
    assert names(store._root.parent.parent) == ["inner"]
