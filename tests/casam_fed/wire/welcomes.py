"""An aggregator's welcome for a site, with a certificate authority that a test can afford."""

import functools
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from casam_fed.audit.keys import public_pem
from casam_fed.backbone.backbones import backbone_card
from casam_fed.config import MethodConfig
from casam_fed.wire.enrolment import EnrolmentRequest, Welcome

AGGREGATOR = Ed25519PrivateKey.from_private_bytes(b"a" * 32)
METHOD = MethodConfig(threads=1, epochs=1, min_steps=2, batch_size=4, masks_per_image=1, point_share=0.0)


@functools.cache
def authority(number: int = 0) -> str:
    """Return the PEM of a certificate authority; each number is another one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {number}")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=9))
    ).sign(key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def welcome_for(request: EnrolmentRequest, **changes: Any) -> Welcome:
    """Return the welcome of the aggregator whose key is `AGGREGATOR`."""
    values: dict[str, Any] = {
        "federation": "test",
        "site": request.site,
        "site_key": request.fingerprint,
        "address": "127.0.0.1:8443",
        "ca": authority(),
        "aggregator_key": public_pem(AGGREGATOR.public_key()),
        "app": "a" * 64,
        "backbone": "mini",
        "backbone_digest": backbone_card("mini").sha256,
        "method": METHOD,
    }
    return Welcome(**{**values, **changes})
