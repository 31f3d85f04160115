"""Links under which callers of GetFunction and GetLayerVersion fetch archives without credentials, as on AWS."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qsl

from insula.artifacts.code import CodeStore
from insula.model.errors import AccessDeniedException, ResourceNotFoundException

PREFIX = "/_insula/code/"
VALID_SECONDS = 600

_CHUNK_BYTES = 256 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HOST = re.compile(r"https?://[A-Za-z0-9._:\[\]-]{1,255}")

Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class CodeLinks:
    """Makes and honours links to code packages.

    Args:
        stores: where packages and layers lie.
        secret: signs the links; a fresh one per process, so that a restart voids them.
        clock: seconds since the epoch.
    """

    def __init__(self, stores: Sequence[CodeStore], secret: bytes, clock: Callable[[], float]) -> None:
        self._stores = stores
        self._secret = secret
        self._clock = clock

    def url(self, base_url: str, sha256: str) -> str:
        """A link to a package, valid for ten minutes."""
        # The host comes from a header of the request; what is no host is not reflected.
        base = base_url if _HOST.fullmatch(base_url) else "http://localhost"
        name = base64.b64decode(sha256).hex()
        expires = str(int(self._clock()) + VALID_SECONDS)
        return f"{base}{PREFIX}{name}?expires={expires}&signature={self._sign(name, expires)}"

    async def serve(self, path: str, query: bytes, send: Send) -> None:
        """Answer a GET of a link, over ASGI.

        Raises:
            AccessDeniedException: the link was not made here, or is too old.
            ResourceNotFoundException: the package is gone.
        """
        name = path.removeprefix(PREFIX)
        given = dict(parse_qsl(query.decode("latin-1"), max_num_fields=10))
        self._check(name, given.get("expires", ""), given.get("signature", ""))
        file = await asyncio.to_thread(_open, self._path_of(base64.b64encode(bytes.fromhex(name)).decode()))
        with file:
            await _stream(file, send)

    def _path_of(self, sha256: str) -> Path:
        for store in self._stores:
            with contextlib.suppress(ResourceNotFoundException):
                return store.zip_path(sha256)
        raise ResourceNotFoundException(f"Code package not found: {sha256}")

    def _check(self, name: str, expires: str, signature: str) -> None:
        signed = _SHA256.fullmatch(name) is not None and hmac.compare_digest(
            self._sign(name, expires).encode(), signature.encode()
        )
        if not signed or int(expires) < self._clock():
            raise AccessDeniedException("The link is not valid, or has expired. Call GetFunction for a new one.")

    def _sign(self, name: str, expires: str) -> str:
        return hmac.digest(self._secret, f"{name}:{expires}".encode(), "sha256").hex()


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise ResourceNotFoundException("The code package is gone: its function was deleted.") from None


async def _stream(file: BinaryIO, send: Send) -> None:
    size = file.seek(0, 2)
    file.seek(0)
    headers = [(b"content-type", b"application/zip"), (b"content-length", str(size).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
