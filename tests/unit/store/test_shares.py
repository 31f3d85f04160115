"""The operator's file of limits is read, or the operator is told what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from insula.model.share import Shares, TenantLimits
from insula.store.shares import SharesError, load_shares


def test_a_file_of_limits(tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    path.write_text('[default]\nconcurrency = 5\n\n[tenants."a tenant/1:x"]\nconcurrency = "none"\n')
    assert load_shares(path) == Shares(TenantLimits(5), {"a tenant/1:x": TenantLimits(None)})


def test_an_empty_file_limits_nobody(tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    path.touch()
    assert load_shares(path) == Shares()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[default\n", "line 1"),
        (b"concurrency = 5\n", "unknown table 'concurrency'"),
        (b"[default]\nconcurrency = -5\n", "default.concurrency is -5"),
        (b"[default]\nconcurrency = 1\nconcurrency = 2\n", "line 3"),
        (b"\xff\xfe", "decode"),
        (b'[tenants."x"]\nspeed = 1\n', "[tenants.x] has no limit 'speed'"),
    ],
)
def test_what_is_wrong_in_it_is_said_with_its_place(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "limits.toml"
    path.write_bytes(content)
    with pytest.raises(SharesError) as refused:
        load_shares(path)
    assert f"The limits in {path} are not as they must be" in str(refused.value)
    assert words in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SharesError, match=r"none.toml cannot be read: No such file or directory\."):
        load_shares(tmp_path / "none.toml")
    with pytest.raises(SharesError, match=r"cannot be read: Is a directory\."):
        load_shares(tmp_path)
