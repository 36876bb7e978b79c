"""Addresses of blobs: a blob lies under the sha256 of its bytes, whichever store holds it."""

import hashlib
import re
from dataclasses import dataclass

from perception.data.manifest import URI_RULE
from perception.errors import InputError

_URI = re.compile(URI_RULE)
_SUFFIX = re.compile("[a-z0-9]+")


@dataclass(frozen=True)
class Blob:
    """Say where a blob lies (a uri relative to its store) and what it is."""

    uri: str
    sha256: str
    size_bytes: int


def describe_blob(data: bytes, suffix: str) -> Blob:
    """Work out the address of some data; raises InputError for a suffix that no uri may have."""
    if not _SUFFIX.fullmatch(suffix):
        raise InputError(
            f"blob suffix {suffix!r}: must be lower-case letters and digits without a dot; write jpg or png"
        )
    sha256 = hashlib.sha256(data).hexdigest()
    return Blob(f"sha256/{sha256[:2]}/{sha256}.{suffix}", sha256, len(data))


def is_uri(uri: str) -> bool:
    """Say whether a text is an address in the store."""
    # fullmatch: $ alone would let a newline at the end pass.
    return bool(_URI.fullmatch(uri)) and uri[7:9] == uri[10:12]


def sha256_in(uri: str) -> str:
    """Return the sha256 of a blob's bytes, which its address holds."""
    return uri[10:74]


def checked_uri(uri: str) -> str:
    """Refuse every uri that is not an address in the store, so that none can lead out of it."""
    if not is_uri(uri):
        raise InputError(
            f"blob uri {uri!r}: must be sha256/<first 2>/<64 hex digits>.<suffix>; take it from a manifest"
        )
    return uri


def verified(data: bytes, uri: str, where: str) -> bytes:
    """Return the data if its sha256 is the one in the uri, else raise InputError."""
    if hashlib.sha256(data).hexdigest() != sha256_in(uri):
        raise InputError(
            f"store {where}: blob {uri} is corrupt (its bytes have another sha256); restore it or ingest again"
        )
    return data
