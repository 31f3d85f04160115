"""Verification of AWS Signature Version 4 in the Authorization header.

``begin`` judges everything that does not need the body, so that a stranger's upload is never read;
``Claim.verify`` then judges the signature itself.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from insula.lambda_api.canonical import (
    canonical_headers,
    canonical_path,
    canonical_query,
    payload_hash,
)
from insula.model.errors import (
    AccessError,
    IncompleteSignatureException,
    InvalidSignatureException,
    MissingAuthenticationTokenException,
    UnrecognizedClientException,
)

ALGORITHM = "AWS4-HMAC-SHA256"
SKEW_SECONDS = 300

_CACHED_KEYS = 1024
_CACHED_BYTES = 1024  # of a longer Authorization header nothing is kept
_SIGNATURE = b"Signature="
_DATE = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
    "Access Key and signing method. Consult the service documentation for details."
)
_UNRECOGNIZED = "The security token included in the request is invalid."


@dataclass(frozen=True, slots=True)
class Credential:
    """An access key that may call the API.

    Attributes:
        account: the twelve-digit account that it acts for.
    """

    access_key: str
    secret: str
    account: str


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What of a request is signed, as it was received.

    Attributes:
        path: still percent-encoded.
        headers: lower-case names; repeated headers joined by commas, in order.
    """

    method: str
    path: bytes
    query: bytes
    headers: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class _Terms:
    """The Authorization header without the signature: the same for all requests that a client signs alike in a day."""

    access_key: str
    scope: tuple[str, ...]
    scope_text: str
    signed_headers: str
    names: frozenset[bytes]


class Claim(NamedTuple):
    """A request's claim to come from a known access key, not proven yet."""

    credential: Credential
    terms: _Terms
    date: str
    signature: bytes
    key: hmac.HMAC
    request: SignedRequest

    def verify(self, body: bytes) -> str:
        """Check the signature over the request and its body, and return the caller's account.

        Raises:
            InvalidSignatureException: it does not match.
        """
        request, terms = self.request, self.terms
        canonical = "\n".join(
            (
                request.method,
                canonical_path(request.path),
                canonical_query(request.query),
                canonical_headers(request.headers, terms.signed_headers),
                terms.signed_headers,
                payload_hash(request.headers, body),
            )
        )
        digest = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
        text = f"{ALGORITHM}\n{self.date}\n{terms.scope_text}\n{digest}"
        expected = self.key.copy()
        expected.update(text.encode())
        if not hmac.compare_digest(expected.hexdigest().encode(), self.signature):
            raise InvalidSignatureException(_MISMATCH)
        return self.credential.account


class Verifier:
    """Verifies requests to one region.

    Args:
        find: the credential of an access key id, or None.
        region: the region served here.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        find: Callable[[str], Credential | None],
        region: str,
        clock: Callable[[], float],
        service: str = "lambda",
    ) -> None:
        self._find = find
        self._region = region
        self._clock = clock
        self._service = service
        self._keys: dict[tuple[str, str, str], hmac.HMAC] = {}

    def begin(self, request: SignedRequest) -> Claim:
        """Judge all of a request but its body.

        Raises:
            AccessError: one of its subclasses; the message is AWS's.
        """
        terms, signature = _authorization(request)
        date, signed = _request_date(request.headers)
        self._check_scope(terms.scope, date)
        self._check_time(date, signed)
        _check_signed_headers(request.headers, terms.names)
        credential = self._find(terms.access_key)
        if credential is None or b"x-amz-security-token" in request.headers:
            raise UnrecognizedClientException(_UNRECOGNIZED)
        key = self._signing_key(credential, terms.scope[0])
        return Claim(credential, terms, date, signature, key, request)

    def _check_scope(self, scope: tuple[str, ...], date: str) -> None:
        day, region, service, terminator = scope
        if terminator != "aws4_request":
            raise InvalidSignatureException(
                f"Credential should be scoped with a valid terminator: 'aws4_request', not '{terminator}'."
            )
        if region != self._region:
            raise InvalidSignatureException(
                f"Credential should be scoped to a valid region, not '{region}'. "
                f"This server's region is '{self._region}'."
            )
        if service != self._service:
            raise InvalidSignatureException(f"Credential should be scoped to correct service: '{self._service}'. ")
        if day != date[:8]:
            raise InvalidSignatureException(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
                f"'{day}' != '{date[:8]}', from '{date}'."
            )

    def _check_time(self, date: str, signed: float) -> None:
        now = self._clock()
        if signed < now - SKEW_SECONDS:
            limit = f"{_iso(now - SKEW_SECONDS)} ({_iso(now)} - 5 min.)"
            raise InvalidSignatureException(f"Signature expired: {date} is now earlier than {limit}")
        if signed > now + SKEW_SECONDS:
            limit = f"{_iso(now + SKEW_SECONDS)} ({_iso(now)} + 5 min.)"
            raise InvalidSignatureException(f"Signature not yet current: {date} is still later than {limit}")

    def _signing_key(self, credential: Credential, day: str) -> hmac.HMAC:
        """The day's key, ready to be copied: that costs less than to begin with the key each time."""
        # The secret is part of the name: a key id whose secret was replaced must not meet its old key.
        name = (credential.access_key, credential.secret, day)
        found = self._keys.get(name)
        if found is None:
            key = f"AWS4{credential.secret}".encode()
            for part in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            if len(self._keys) >= _CACHED_KEYS:
                self._keys.clear()
            found = self._keys[name] = hmac.new(key, digestmod="sha256")
        return found


def _authorization(request: SignedRequest) -> tuple[_Terms, bytes]:
    """What the Authorization header says: the terms of the signature, and the signature."""
    raw = request.headers.get(b"authorization")
    if raw is None:
        raise _unsigned(request.query)
    before, name, after = raw.rpartition(_SIGNATURE)
    signature, comma, rest = after.partition(b",")
    signature = signature.strip() if name else b""
    read = _terms if len(raw) <= _CACHED_BYTES else _terms.__wrapped__
    return read(b"".join((before, name, comma, rest)) if name else raw, bool(signature)), signature


@functools.lru_cache(maxsize=256)
def _terms(raw: bytes, signed: bool) -> _Terms:
    """Read an Authorization header whose signature, if there was one, is cut out."""
    algorithm, _, rest = raw.decode("latin-1").strip().partition(" ")
    if algorithm != ALGORITHM:
        raise IncompleteSignatureException(f"Unsupported AWS 'algorithm': '{algorithm[:40]}'. Sign with {ALGORITHM}.")
    parts = dict(_pair(item) for item in rest.split(","))
    missing = [name for name in ("Credential", "SignedHeaders") if not parts.get(name)]
    if not signed or parts.get("Signature") != "":
        missing.append("Signature")
    if missing:
        raise IncompleteSignatureException(
            " ".join(f"Authorization header requires '{name}' parameter." for name in missing)
        )
    access_key, scope = _credential_parts(parts["Credential"])
    names = parts["SignedHeaders"]
    return _Terms(access_key, scope, "/".join(scope), names, frozenset(names.encode("latin-1").split(b";")))


def _unsigned(query: bytes) -> AccessError:
    if b"X-Amz-Signature=" in query:
        return IncompleteSignatureException(
            "Presigned requests are not supported yet. Sign the request in its Authorization header."
        )
    return MissingAuthenticationTokenException("Missing Authentication Token")


def _pair(item: str) -> tuple[str, str]:
    name, equals, value = item.strip().partition("=")
    if not equals:
        raise IncompleteSignatureException("Invalid key=value pair (missing equal-sign) in Authorization header.")
    return name, value


def _credential_parts(text: str) -> tuple[str, tuple[str, ...]]:
    access_key, *scope = text.split("/")
    if len(scope) != 4:
        raise IncompleteSignatureException(
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, "
            f"got '{text[:200]}'"
        )
    return access_key, tuple(scope)


def _request_date(headers: Mapping[bytes, bytes]) -> tuple[str, float]:
    """When the request says that it was signed: as it stands there, and in unix seconds."""
    raw = headers.get(b"x-amz-date")
    if raw is None:
        raise IncompleteSignatureException("Authorization header requires existence of a 'X-Amz-Date' header.")
    return _moment(raw)


@functools.lru_cache(maxsize=256)  # all requests of one second have the same date
def _moment(raw: bytes) -> tuple[str, float]:
    date = raw.decode("latin-1").strip()
    try:
        moment = datetime.strptime(f"{date}+0000" if _DATE.fullmatch(date) else "", "%Y%m%dT%H%M%SZ%z")
    except ValueError:
        raise IncompleteSignatureException(
            f"Date must be in ISO-8601 'basic format'. Got '{date[:40]}'. See http://en.wikipedia.org/wiki/ISO_8601"
        ) from None
    return date, moment.timestamp()


def _check_signed_headers(headers: Mapping[bytes, bytes], names: frozenset[bytes]) -> None:
    if b"host" not in names:
        raise InvalidSignatureException("'Host' must be a 'SignedHeader' in the AWS Authorization.")
    # An unsigned x-amz- header could be changed on the way; one of them names the tenant.
    for name in headers:
        if name.startswith(b"x-amz-") and name not in names:
            raise InvalidSignatureException(
                f"There were headers present in the request which were not signed: {name[:100].decode('latin-1')}"
            )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H%M%SZ")
