"""The canonical request of AWS Signature Version 4.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from urllib.parse import quote_from_bytes, unquote_to_bytes

from insula.model.errors import InvalidSignatureException

UNSIGNED = "UNSIGNED-PAYLOAD"

_PLAIN_PATH = re.compile(rb"(?:/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)+")
_HASH = re.compile(r"[0-9a-f]{64}")


def payload_hash(headers: Mapping[bytes, bytes], body: bytes) -> str:
    """The last line of the canonical request.

    Raises:
        InvalidSignatureException: the x-amz-content-sha256 header does not fit the body.
    """
    raw = headers.get(b"x-amz-content-sha256")
    actual = hashlib.sha256(body).hexdigest()
    if raw is None:
        return actual
    claimed = raw.decode("latin-1").strip()
    if claimed == UNSIGNED:
        return UNSIGNED
    if _HASH.fullmatch(claimed) is None:
        raise InvalidSignatureException(
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD or a SHA-256 in lower-case hexadecimal digits; "
            "chunked signatures are not supported."
        )
    if claimed != actual:
        raise InvalidSignatureException("The provided 'x-amz-content-sha256' header does not match what was computed.")
    return actual


def canonical_path(path: bytes) -> str:
    """The path without dot segments, encoded once more than it was sent, as all services but S3 want it."""
    if _PLAIN_PATH.fullmatch(path) is not None:
        return path.decode()
    kept: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            del kept[-1:]
        elif segment not in {b"", b"."}:
            kept.append(segment)
    trailing = b"/" if path.endswith(b"/") and kept else b""
    return quote_from_bytes(b"/" + b"/".join(kept) + trailing, safe="/~")


def canonical_query(query: bytes) -> str:
    """The parameters, encoded the one right way and sorted."""
    if not query:
        return ""
    pairs = [part.partition(b"=") for part in query.split(b"&") if part]
    return "&".join(
        f"{name}={value}" for name, value in sorted((_encoded(name), _encoded(value)) for name, _, value in pairs)
    )


def _encoded(part: bytes) -> str:
    return quote_from_bytes(unquote_to_bytes(part), safe="-_.~")


def canonical_headers(headers: Mapping[bytes, bytes], signed: str) -> str:
    """The signed headers; bytes that are not UTF-8 become surrogates."""
    return "".join([f"{name}:{_collapsed(headers.get(name.encode('latin-1'), b''))}\n" for name in signed.split(";")])


def _collapsed(value: bytes) -> str:
    return " ".join(value.decode("utf-8", "surrogateescape").split())
