"""AWS's event stream encoding: messages of headers and a payload, each with two checksums.

Source: https://smithy.io/2.0/aws/amazon-eventstream.html
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

CONTENT_TYPE = b"application/vnd.amazon.eventstream"
_STRING = 7  # the type of a header's value
_PRELUDE = struct.Struct("!II")
_CHECKSUM = struct.Struct("!I")


def encode_event(kind: str, payload: bytes, content_type: str) -> bytes:
    """One event as a message.

    Args:
        kind: the event's name in the service model, such as ``PayloadChunk``.
        content_type: of the payload.
    """
    headers = {":message-type": "event", ":event-type": kind, ":content-type": content_type}
    return _encode(headers, payload)


def _encode(headers: Mapping[str, str], payload: bytes) -> bytes:
    block = b"".join(_header(name.encode(), value.encode()) for name, value in headers.items())
    # Two lengths, their checksum, the headers, the payload, and the checksum of all that.
    prelude = _PRELUDE.pack(len(block) + len(payload) + 16, len(block))
    message = prelude + _CHECKSUM.pack(zlib.crc32(prelude)) + block + payload
    return message + _CHECKSUM.pack(zlib.crc32(message))


def _header(name: bytes, value: bytes) -> bytes:
    return struct.pack(f"!B{len(name)}sBH", len(name), name, _STRING, len(value)) + value
