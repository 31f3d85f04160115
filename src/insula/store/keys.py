"""Access keys: how a caller of the API proves which account it belongs to."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import DBAPIError

from insula.store.schema import DATABASE, CatalogError, access_keys, open_readonly

# An AWS access key id is "AKIA" and 16 characters of base32, a secret is 40 characters of base64.
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-unique-ids
_ID_ALPHABET = string.ascii_uppercase + "234567"
_SECRET_ALPHABET = string.ascii_letters + string.digits + "+/"


@dataclass(frozen=True, slots=True)
class AccessKey:
    """An access key.

    Attributes:
        created: unix seconds.
    """

    access_key: str
    secret: str
    account: str
    created: float


def new_access_key(account: str, created: float) -> AccessKey:
    """A fresh key for the account."""
    return AccessKey("AKIA" + _random(_ID_ALPHABET, 16), _random(_SECRET_ALPHABET, 40), account, created)


def load_access_keys(connection: Connection) -> list[AccessKey]:
    """All keys, oldest first."""
    rows = connection.execute(select(access_keys).order_by(access_keys.c.created, access_keys.c.access_key))
    return [AccessKey(row.access_key, row.secret, row.account, row.created) for row in rows]


def save_access_key(connection: Connection, key: AccessKey) -> None:
    """Store a new key."""
    connection.execute(
        insert(access_keys).values(
            access_key=key.access_key, secret=key.secret, account=key.account, created=key.created
        )
    )


def first_access_key(folder: Path) -> AccessKey:
    """The oldest access key of a data folder, read beside a running server and without its lock.

    Raises:
        CatalogError: the folder has no catalog, no key, or may not be read.
    """
    if not (folder / DATABASE).exists():
        raise CatalogError(f"Data folder {folder} has no catalog yet. Start 'insula serve' with it first.")
    engine = open_readonly(folder)
    try:
        with engine.connect() as connection:
            keys = load_access_keys(connection)
    except DBAPIError as error:
        raise CatalogError(f"{folder / DATABASE} cannot be read: {error.orig}") from error
    finally:
        engine.dispose()
    if not keys:
        raise CatalogError(f"Data folder {folder} has no access key. Start 'insula serve' with it first.")
    return keys[0]


def _random(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))
