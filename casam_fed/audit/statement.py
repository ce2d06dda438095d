"""What a site says about a release before it leaves: an in-toto Statement v1 (https://in-toto.io/Statement/v1).

The statement's subject is the release by its SHA-256; the predicate says for whom, from whom and by which approval. No
free text. The site signs it in a DSSE envelope, which travels beside the release.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from casam_fed.audit.dsse import seal, unseal
from casam_fed.audit.event import PAYLOAD_TYPE
from casam_fed.audit.forms import DIGEST, NAME, SIZES, is_time
from casam_fed.canonical import canonical_json
from casam_fed.errors import SignatureError

__all__ = ["PAYLOAD_TYPE", "PREDICATE_TYPE", "Statement", "open_statement", "sign_statement"]

PREDICATE_TYPE = "https://casam-fed.github.io/release/v1"

_APPROVALS = ("person", "option")


@dataclass(frozen=True)
class Statement:
    """One release, stated by its site.

    Attributes:
        release: SHA-256 of the release's bytes.
        size: their number.
        federation, site, task: names of letters, digits, dots, dashes and underscores.
        backbone: SHA-256 of the backbone the release belongs to.
        app: SHA-256 of the Flower app through which it may leave.
        code: version of casam-fed at the site.
        approved: "person" who was asked, or "option" given on the command line.
        time: UTC, YYYY-MM-DDThh:mm:ssZ, when it was approved.
    """

    release: str
    size: int
    federation: str
    site: str
    task: str
    backbone: str
    app: str
    code: str
    approved: str
    time: str


_FORMS: Mapping[str, re.Pattern[str]] = {
    "release": DIGEST,
    "federation": NAME,
    "site": NAME,
    "task": NAME,
    "backbone": DIGEST,
    "app": DIGEST,
    "code": NAME,
    "approved": re.compile("|".join(_APPROVALS)),
}


def sign_statement(statement: Statement, key: Ed25519PrivateKey) -> bytes:
    """Return the signed envelope of a statement; the same statement and key give the same bytes."""
    assert not _unfit(statement), _unfit(statement)
    return seal(PAYLOAD_TYPE, _payload(statement), key)


def open_statement(data: bytes, keys: Mapping[str, Ed25519PublicKey], sender: str) -> Statement:
    """Return the statement in an envelope, its signature checked against `keys`.

    Raises:
        SignatureError: as `unseal`; or the payload is not exactly a statement of this version.
    """
    payload = unseal(data, PAYLOAD_TYPE, keys, sender)
    unlike = f"the statement of {sender} is not one of this version; run the same version at both ends"
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        content = json.loads(payload.decode("ascii"))
        (subject,) = content["subject"]
        names = {field.name for field in fields(Statement)} - {"release"}
        statement = Statement(release=subject["digest"]["sha256"], **{n: content["predicate"][n] for n in names})
        if name := _unfit(statement):
            unlike = f"the statement of {sender} has no valid '{name}'; make it again with this version"
        elif _payload(statement) == payload:
            return statement
    raise SignatureError(unlike)


def _payload(statement: Statement) -> bytes:
    predicate = asdict(statement)
    subject = {"name": "release.safetensors", "digest": {"sha256": predicate.pop("release")}}
    content = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [subject],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    return canonical_json(content).encode("ascii")


def _unfit(statement: Statement) -> str:
    """Return the first field of a statement that is not in its form, "" for none."""
    for name, form in _FORMS.items():
        value = getattr(statement, name)
        if not isinstance(value, str) or not form.fullmatch(value):
            return name
    if type(statement.size) is not int or statement.size not in SIZES:
        return "size"
    return "" if is_time(statement.time) else "time"
