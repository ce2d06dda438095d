"""Signing keys: Ed25519 (RFC 8032), kept as PEM, named by the SHA-256 of their public half.

A fingerprint is the SHA-256 of the DER SubjectPublicKeyInfo (RFC 8410), what
`openssl pkey -pubin -in key.pub -outform DER | sha256sum` prints.
"""

import contextlib
import hashlib
import re
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from casam_fed.errors import KeyFileError
from casam_fed.host.files import reason_of

__all__ = ["fingerprint", "load_private_key", "private_pem", "public_key", "public_pem", "shown"]

_PRIME = 2**255 - 19
_EIGHT = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = (0, 1, _PRIME - 1, _EIGHT, _PRIME - _EIGHT)
"""y of the points whose order divides 8. With such a key anybody can sign anything, and its owner can deny everything."""

_FORM = re.compile(r"-----BEGIN PUBLIC KEY-----\n[A-Za-z0-9+/=]+\n-----END PUBLIC KEY-----\n")


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """Return a private key as unencrypted PKCS #8 PEM; the file that keeps it must be 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key: Ed25519PublicKey) -> str:
    """Return a public key as SubjectPublicKeyInfo PEM."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode("ascii")


def public_key(pem: str, owner: str) -> Ed25519PublicKey:
    """Read a public key in exactly the form that `public_pem` writes; `owner` names it in the message.

    Raises:
        KeyFileError: anything else, or a key that signs without its private half.
    """
    if len(pem) < 1024 and _FORM.fullmatch(pem):
        with contextlib.suppress(ValueError, UnsupportedAlgorithm):
            key = serialization.load_pem_public_key(pem.encode("ascii"))
            if isinstance(key, Ed25519PublicKey) and public_pem(key) == pem and not _signs_anything(key):
                return key
    raise KeyFileError(f"the public key of {owner} is no Ed25519 key in PEM form; ask for the file again")


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key that only its owner may read.

    Raises:
        KeyFileError: missing, readable for others, damaged, or of another kind.
    """
    try:
        mode = path.stat().st_mode & 0o777
        data = path.read_bytes()
    except OSError as error:
        reason = reason_of(error)
        raise KeyFileError(f"the signing key {path} cannot be read: {reason}; restore it, or rotate the key") from error
    if mode & 0o077:
        raise KeyFileError(f"the signing key {path} can be read by others (mode {mode:04o}); run chmod 600 {path}")
    with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = serialization.load_pem_private_key(data, password=None)
        if isinstance(key, Ed25519PrivateKey):
            return key
    raise KeyFileError(f"the signing key {path} is damaged, or no Ed25519 key; restore it, or rotate the key")


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return the SHA-256 of the key's DER form, 64 lower-case hexadecimal digits."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def shown(fingerprint: str) -> str:
    """Return a fingerprint in groups of four, as people read it out to each other."""
    return " ".join(fingerprint[start : start + 4] for start in range(0, len(fingerprint), 4))


def _signs_anything(key: Ed25519PublicKey) -> bool:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    y = int.from_bytes(raw, "little") & ((1 << 255) - 1)
    return y % _PRIME in _SMALL_ORDER
