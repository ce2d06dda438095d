"""The aggregator's own certificate authority, for the one HTTPS port that sites reach (X.509 profile: RFC 5280).

    <folder>/ca.key      signs certificates; secret
    <folder>/ca.pem      what every site receives, and all that it trusts
    <folder>/server.pem  private key and certificate of the port, in one file; secret

A web server and flower-superlink take server.pem both as --ssl-keyfile and as --ssl-certfile. One file, replaced
atomically, cannot hold a key and a certificate that do not match. It is written last: as long as it is absent,
`create_authority` can be called again and finishes with what is there.
"""

import contextlib
import ipaddress
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from casam_fed.errors import ConfigError, StorageError
from casam_fed.forms import NAME_PATTERN
from casam_fed.host.files import as_storage_error, write_atomically

__all__ = ["DaysLeft", "authority_pem", "create_authority", "days_left", "renew_server_certificate"]

_AUTHORITY_LIFE = timedelta(days=3652)
_SERVER_LIFE = timedelta(days=397)
_RENEWED_BEFORE_END = timedelta(days=30)
_CLOCK_SKEW = timedelta(minutes=5)

_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# A last label that is a number would make some clients read the whole as an IPv4 address ("127.1", "0x7f.1").
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*(?!(?:[0-9]+|0x[0-9a-f]*)\Z){_LABEL}")

_BAD_CERTIFICATE = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
)

_Name = x509.DNSName | x509.IPAddress


@dataclass(frozen=True)
class DaysLeft:
    """Whole days until the authority and the server certificate end; negative once they have."""

    authority: int
    server: int


def create_authority(folder: Path, federation: str, host: str) -> None:
    """Create the authority of a federation, a slug, whose sites reach the aggregator at `host`, and its certificate.

    What an interrupted call has written is kept and completed: sites may hold that ca.pem already.

    Raises:
        ConfigError: `host` cannot stand in a certificate, or the folder holds an authority already.
        StorageError: files of an interrupted call are damaged, or the disk is full or cannot be written.
    """
    names = _names(host)
    assert re.fullmatch(NAME_PATTERN, federation), federation
    if os.path.exists(folder / "server.pem"):
        raise ConfigError(f"{folder} holds an authority already; renew its server certificate, or give another folder")
    now = datetime.now(UTC)
    if not os.path.exists(folder / "ca.pem"):
        if not os.path.exists(folder / "ca.key"):
            write_atomically(folder / "ca.key", _key_pem(_new_key()), private=True)
        key = _read_key(folder / "ca.key", "delete it and create the authority again")
        certificate = _authority_certificate(key, federation, names, now)
        write_atomically(folder / "ca.pem", certificate.public_bytes(Encoding.PEM))
    key, certificate = _read_authority(folder)
    if certificate.subject != _subject(federation) or _permitted(certificate) != {_subtree(name) for name in names}:
        raise ConfigError(
            f"{folder} holds an unfinished authority of another federation or host; give the names of that one, or "
            "another folder"
        )
    _write_server(folder, key, certificate, names, now)


def renew_server_certificate(folder: Path, host: str, now: datetime | None = None) -> bool:
    """Replace key and certificate of the port if fewer than 30 days are left or `host` is another; True if replaced.

    A server.pem that is missing is made. Running servers keep the old pair until they are started again.

    Args:
        folder: where the authority is.
        host: the name or address by which sites reach the aggregator.
        now: the time, with its zone; the clock's by default.

    Raises:
        ConfigError: `host` cannot stand in a certificate or is outside the authority's name constraints (RFC 5280,
            4.2.1.10), or the authority has ended.
        StorageError: a file is missing or damaged, or the disk is full or cannot be written; the old pair stays.
    """
    names = _names(host)
    now = now or datetime.now(UTC)
    key, authority = _read_authority(folder)
    permitted = _permitted(authority)
    end = authority.not_valid_after_utc
    defect = f"the authority in {folder} ended on {end:%Y-%m-%d};" if now >= end else ""
    if not any(_covers(base, names[0]) for base in permitted):
        covered = ", ".join(sorted(str(base.value).split("/")[0] for base in permitted))
        defect = f"the ca.pem that sites hold is good for {covered} only, not for {host}; keep one of these, or"
    if defect:
        raise ConfigError(f"{defect} create a new authority in another folder and give its ca.pem to every site")
    if os.path.exists(folder / "server.pem"):
        old = _read_server(folder, authority)
        same = set(old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == set(names)
        # Near the authority's own end a new certificate would end no later than the old one.
        if same and (old.not_valid_after_utc - now >= _RENEWED_BEFORE_END or old.not_valid_after_utc >= end):
            return False
    _write_server(folder, key, authority, names, now)
    return True


def authority_pem(folder: Path) -> str:
    """Return the authority's certificate as PEM, for sites to trust.

    Raises:
        StorageError: ca.pem is missing, damaged or cannot be read.
    """
    # Written anew from what was parsed: whatever else the file holds does not leave.
    return _read_authority_certificate(folder).public_bytes(Encoding.PEM).decode("ascii")


def days_left(folder: Path, now: datetime | None = None) -> DaysLeft:
    """Return how long the authority and the server certificate last; needs no ca.key.

    Raises:
        StorageError: ca.pem or server.pem is missing, damaged or cannot be read.
    """
    now = now or datetime.now(UTC)
    authority = _read_authority_certificate(folder)
    server = _read_server(folder, authority)
    return DaysLeft((authority.not_valid_after_utc - now).days, (server.not_valid_after_utc - now).days)


def _names(host: str) -> list[_Name]:
    """Return `host`, checked, and the loopback names by which the aggregator's own processes reach each other."""
    loopback = (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))
    own: list[_Name] = [x509.DNSName("localhost"), *(x509.IPAddress(address) for address in loopback)]
    public = _public_name(host)
    return [public, *(name for name in own if name != public)]


def _public_name(host: str) -> _Name:
    mend = (
        f"{host!r} is no host name or IP address; give it as in casam.hospital.org, 192.0.2.7 or 2001:db8::7, without "
        "scheme, port, path, brackets, spaces or wildcard, and letters beyond a-z in punycode (xn--...)"
    )
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if not (address.is_unspecified or address.is_multicast or "%" in host):
            return x509.IPAddress(address)
        if "%" not in host:
            mend = f"{host} is no address of one machine; give the name or address by which sites reach it"
    # isascii first: lower() turns the Kelvin sign into a plain k.
    if host.isascii() and _DNS_NAME.fullmatch(host.lower()):
        return x509.DNSName(host.lower())
    raise ConfigError(mend)


def _subject(federation: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "casam-fed"),
            x509.NameAttribute(NameOID.COMMON_NAME, federation),
        ]
    )


def _authority_certificate(
    key: ec.EllipticCurvePrivateKey, federation: str, names: list[_Name], now: datetime
) -> x509.Certificate:
    """Return a root that can sign server certificates only (pathlen 0, RFC 5280, 4.2.1.9) and only for `names`.

    A permitted DNS name includes the names below it (4.2.1.10); there is no standard way to leave those out. Addresses
    need constraints of their own: a kind of name that is not listed is not constrained.
    """
    return (
        _builder(_subject(federation), key, now)
        .issuer_name(_subject(federation))
        .not_valid_after(now + _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.NameConstraints([_subtree(name) for name in names], None), critical=True)
        .sign(key, hashes.SHA256())
    )


def _write_server(
    folder: Path, signing: ec.EllipticCurvePrivateKey, authority: x509.Certificate, names: list[_Name], now: datetime
) -> None:
    key = _new_key()
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())
    # The subject is not the host: clients take names from the SAN alone (RFC 9525, 2), and a CN holds 64 letters only.
    certificate = (
        _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "casam-fed aggregator")]), key, now)
        .issuer_name(authority.subject)
        .not_valid_after(min(now + _SERVER_LIFE, authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(identifier, critical=False)
        .sign(signing, hashes.SHA256())
    )
    write_atomically(folder / "server.pem", _key_pem(key) + certificate.public_bytes(Encoding.PEM), private=True)


def _builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _subtree(name: _Name) -> _Name:
    """Return what a permitted subtree must hold for exactly `name`: addresses stand there as networks."""
    if isinstance(name, x509.IPAddress):
        return x509.IPAddress(ipaddress.ip_network(str(name.value)))
    return name


def _permitted(authority: x509.Certificate) -> set[x509.GeneralName]:
    return set(authority.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or [])


def _covers(base: x509.GeneralName, name: _Name) -> bool:
    if isinstance(base, x509.DNSName) and isinstance(name, x509.DNSName):
        return f".{name.value}".endswith(f".{base.value}")
    return base == _subtree(name)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read_authority(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    certificate = _read_authority_certificate(folder)
    mend = "restore it from a backup, or create a new authority in another folder and give its ca.pem to every site"
    return _read_key(folder / "ca.key", mend, certificate), certificate


def _read_authority_certificate(folder: Path) -> x509.Certificate:
    mend = "restore it from a backup or from a site, or create an authority in another folder"
    return _read_certificate(folder / "ca.pem", mend, x509.NameConstraints)


def _read_server(folder: Path, authority: x509.Certificate) -> x509.Certificate:
    """Return the server certificate after checking that the authority has signed it and that its key is beside it."""
    mend = "delete it if it is there, and renew the server certificate"
    certificate = _read_certificate(folder / "server.pem", mend, x509.SubjectAlternativeName, authority)
    _read_key(folder / "server.pem", mend, certificate)
    return certificate


def _read_certificate(
    path: Path, mend: str, needed: type[x509.ExtensionType], issuer: x509.Certificate | None = None
) -> x509.Certificate:
    """Return a certificate after checking its signature, its own without an issuer: it shows every change of content."""
    try:
        certificate = x509.load_pem_x509_certificate(_read(path, mend))
        certificate.verify_directly_issued_by(issuer or certificate)
        certificate.extensions.get_extension_for_class(needed)
    except _BAD_CERTIFICATE as error:
        raise StorageError(f"{path} holds no certificate of this authority or is damaged; {mend}") from error
    return certificate


def _read_key(path: Path, mend: str, owner: x509.Certificate | None = None) -> ec.EllipticCurvePrivateKey:
    defect = "is damaged or encrypted"
    with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = load_pem_private_key(_read(path, mend), password=None)
        if isinstance(key, ec.EllipticCurvePrivateKey) and (owner is None or key.public_key() == owner.public_key()):
            return key
        defect = "is not the one of its certificate"
    raise StorageError(f"the private key in {path} {defect}; {mend}")


def _read(path: Path, mend: str) -> bytes:
    try:
        with as_storage_error("read", path, "let this user read the files of the authority"):
            return path.read_bytes()
    except FileNotFoundError as error:
        raise StorageError(f"{path} is missing; {mend}") from error
