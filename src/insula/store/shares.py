"""The operator's file of tenants' shares (``insula serve --limits``)."""

from __future__ import annotations

import tomllib
from pathlib import Path

from insula.model.share import Shares, read_shares


class SharesError(Exception):
    """The file cannot be read, or says what it may not; the message says where and what to do."""


def load_shares(path: Path) -> Shares:
    """Read a TOML file with the tables ``[default]`` and ``[tenants."ID"]``.

    Raises:
        SharesError: it is no such file.
    """
    try:
        return read_shares(tomllib.loads(path.read_text()))
    except OSError as error:
        raise SharesError(f"The limits in {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError) as error:
        raise SharesError(f"The limits in {path} are not as they must be: {error}.") from error
