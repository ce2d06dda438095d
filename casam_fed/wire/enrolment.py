"""How a hospital gets in: the request it hands to the aggregator's operator, and the welcome it gets back.

Both travel as files, by whatever way two people already trust, and both are checked by a person: the operator compares the
fingerprint in the request with the hospital's engineer, the engineer that in the welcome with the operator.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from casam_fed.audit.dsse import read_envelope, seal, unseal
from casam_fed.audit.keys import fingerprint, public_key
from casam_fed.canonical import canonical_json
from casam_fed.config import MethodConfig
from casam_fed.errors import CasamError, EnrolmentError
from casam_fed.forms import STRICT, Digest, Slug
from casam_fed.host.printable import printable

__all__ = [
    "EnrolmentRequest",
    "Welcome",
    "node_key_pem",
    "open_request",
    "open_welcome",
    "sign_request",
    "welcome_json",
]

_REQUEST_TYPE = "application/vnd.casam-fed.request+json"
_MAX_BYTES = 64 << 10
_PLACE = 80
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----\n[A-Za-z0-9+/=\n]{40,400}\n-----END PUBLIC KEY-----\n")

Address = Annotated[str, Field(pattern=r"^(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9][A-Za-z0-9.-]{0,252}):[1-9][0-9]{0,4}$")]
Pem = Annotated[str, Field(max_length=8192)]


@dataclass(frozen=True, config=STRICT)
class EnrolmentRequest:
    """A hospital asks to be enrolled.

    Attributes:
        site: its name.
        signing_key: Ed25519 public key, PEM: what its releases are signed with.
        node_key: EC P-384 public key, PEM: what its SuperNode connects with.
        code: version of casam-fed.
    """

    site: Slug
    signing_key: Pem
    node_key: Pem
    code: Slug
    kind: Literal["casam-request/1"] = "casam-request/1"

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the signing key; the request is signed with it, so it stands for the whole request."""
        return fingerprint(public_key(self.signing_key, f"site {self.site}"))


@dataclass(frozen=True, config=STRICT)
class Welcome:
    """The aggregator lets a site in.

    Attributes:
        federation, site: names.
        site_key: fingerprint of the signing key that was enrolled.
        address: HOST:PORT of the aggregator's one public port.
        ca: PEM of the authority that signed its certificate.
        aggregator_key: Ed25519 public key, PEM: what the bank's snapshots are signed with.
        app: SHA-256 of the only Flower app that will be sent.
        backbone, backbone_digest: the frozen SAM that all sites must run.
        method: the method's choices, the same at all sites; device and threads are each site's own.
    """

    federation: Slug
    site: Slug
    site_key: Digest
    address: Address
    ca: Pem
    aggregator_key: Pem
    app: Digest
    backbone: Slug
    backbone_digest: Digest
    method: MethodConfig
    kind: Literal["casam-welcome/1"] = "casam-welcome/1"

    @property
    def key(self) -> Ed25519PublicKey:
        """The aggregator's public key."""
        return public_key(self.aggregator_key, f"the aggregator of {self.federation}")

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the aggregator's key, to be compared between two people."""
        return fingerprint(self.key)


def sign_request(request: EnrolmentRequest, key: Ed25519PrivateKey) -> bytes:
    """Return the file that a site hands in: the request in an envelope signed with the key it names."""
    return seal(_REQUEST_TYPE, _json(request), key)


def open_request(data: bytes) -> EnrolmentRequest:
    """Read a request and check that whoever made it holds the signing key it names.

    Raises:
        EnrolmentError: not a request, keys of another kind, or the signature does not fit.
    """
    with _opening("this enrolment request", data):
        request: EnrolmentRequest = _parsed(EnrolmentRequest, read_envelope(data.strip(), "the site").payload)
        key = public_key(request.signing_key, f"site {request.site}")
        unseal(data.strip(), _REQUEST_TYPE, {fingerprint(key): key}, f"site {request.site}")
        node_key_pem(request.node_key)
        return request


def welcome_json(welcome: Welcome) -> bytes:
    """Return the file that the operator hands back: indented JSON that a person can read."""
    return json.dumps(_plain(welcome), indent=2, sort_keys=True).encode("ascii") + b"\n"


def open_welcome(data: bytes) -> Welcome:
    """Read a welcome; whether to trust it is for a person to decide, by its fingerprint.

    Raises:
        EnrolmentError: not a welcome of this version.
    """
    with _opening("this welcome", data):
        welcome: Welcome = _parsed(Welcome, data)
        _ = welcome.key
        _check_welcome(welcome)
        return welcome


def node_key_pem(pem: str) -> str:
    """Return the PEM of a SuperNode's public key after checking that it is EC P-384 in the one form we write.

    Raises:
        EnrolmentError: anything else.
    """
    try:
        key = serialization.load_pem_public_key(pem.encode("ascii")) if _PEM.fullmatch(pem) else None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1):
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        if key.public_bytes(serialization.Encoding.PEM, form).decode("ascii") == pem:
            return pem
    raise EnrolmentError("the node key is no EC P-384 public key in PEM form; make the request again")


def _check_welcome(welcome: Welcome) -> None:
    """Check what no pattern tells.

    Raises:
        EnrolmentError: no certificate, a port that does not exist, or a method for another backbone.
    """
    wrong = []
    try:
        x509.load_pem_x509_certificate(welcome.ca.encode("ascii"))
    except ValueError:
        wrong.append("its 'ca' is no certificate in PEM form")
    if int(welcome.address.rpartition(":")[2]) > 65535:
        wrong.append("its 'address' has no valid port")
    if welcome.method.backbone != welcome.backbone:
        wrong.append("its method is for another backbone than its 'backbone'")
    if wrong:
        raise EnrolmentError(f"{', '.join(wrong)}; ask for the file again")


@contextlib.contextmanager
def _opening(what: str, data: bytes) -> Iterator[None]:
    """Say of a file from elsewhere that it cannot be used, and why."""
    try:
        if len(data) > _MAX_BYTES:
            raise EnrolmentError(f"it has {len(data):,} bytes, and at most {_MAX_BYTES:,} are read; ask for it again")
        yield
    except CasamError as error:
        raise EnrolmentError(f"{what} cannot be used: {error}") from error


def _plain(value: EnrolmentRequest | Welcome) -> Any:
    return TypeAdapter(type(value)).dump_python(value, mode="json")


def _json(value: EnrolmentRequest) -> bytes:
    return canonical_json(_plain(value)).encode("ascii")


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return TypeAdapter(kind).validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        # An unknown key is the sender's own text, and this sentence is shown at a terminal.
        place = printable(".".join(str(part) for part in first["loc"])[:_PLACE]) or "the top"
        raise EnrolmentError(f"it is not valid at '{place}' ({first['type']}); ask for the file again") from error
