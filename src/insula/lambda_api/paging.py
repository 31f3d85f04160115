"""Pages of lists."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, TypeVar

from insula.model.errors import InvalidParameterValueException

MOST = 50  # AWS never returns more, whatever MaxItems says

Item = TypeVar("Item")


def page(
    items: Iterable[Item], key: Callable[[Item], tuple[str, int]], request: Mapping[str, Any]
) -> tuple[list[Item], str | None]:
    """One page of items that are sorted by ``key``, and the marker of the next page.

    A marker holds the last key that was sent, so that paging goes on right when items come and go meanwhile.

    Raises:
        InvalidParameterValueException: the request's Marker is not one.
    """
    after = _read(request["Marker"]) if "Marker" in request else ("", -1)
    size = min(request.get("MaxItems", MOST), MOST)
    found = list(islice((item for item in items if key(item) > after), size + 1))
    following = _write(key(found[size - 1])) if len(found) > size else None
    return found[:size], following


def _write(key: tuple[str, int]) -> str:
    return base64.urlsafe_b64encode(f"{key[0]}:{key[1]}".encode()).decode()


def _read(marker: str) -> tuple[str, int]:
    try:
        name, _, number = base64.urlsafe_b64decode(marker.encode()).decode().partition(":")
        return name, int(number)
    except (binascii.Error, ValueError):
        raise InvalidParameterValueException(
            "Invalid Marker. Use the NextMarker of the previous page, or leave it out."
        ) from None
