"""The aggregator's folder: one place for its settings, keys, bank, sites and logs.

aggregator.yaml   settings, to be read and edited by a person
keys/             authority, TLS certificate, signing key, SuperExec secret, all 0600; signing.pub is for auditors
app.fab           the one Flower app that sites allow
audit/            the bank log, which is the truth about the bank, and the checkpoints of every site
bank/             the layer bank
probes.safetensors  features of blank and noise images, which no router may claim
sites/            one file per enrolled hospital
admissions/       what was decided about each release, and why
quarantine/       releases that wait for a person
reports/          aggregate scores by bank and site
kept/             what log and bank lead to, so that neither is read again for each decision; made anew where it is missing
flower/           Flower's own state
logs/             one file per process
"""

import contextlib
import ipaddress
import os
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field
from pydantic.dataclasses import dataclass

from casam_fed.audit.keys import fingerprint, load_private_key
from casam_fed.config import MethodConfig, from_mapping, read_yaml
from casam_fed.errors import ConfigError
from casam_fed.forms import STRICT, Slug
from casam_fed.wire.enrolment import Address

__all__ = ["AggregatorConfig", "Home", "default_listen", "host_and_port"]

Port = Annotated[int, Field(ge=1, le=65535)]


@dataclass(frozen=True, config=STRICT)
class AggregatorConfig:
    """Settings of an aggregator.

    Attributes:
        federation: its name.
        address: HOST:PORT that sites connect to.
        listen: HOST:PORT that the gateway binds; behind a proxy or address translation it differs from `address`.
        superlink_port: the SuperLink's port on loopback.
        method: what all sites share; `device` and `threads` in it are the aggregator's own.
        minimum_images: releases of fewer training images (by their card) are refused.
    """

    federation: Slug
    address: Address
    listen: Address
    superlink_port: Port
    method: MethodConfig = Field(default_factory=MethodConfig)
    minimum_images: Annotated[int, Field(ge=0)] = 10

    def __post_init__(self) -> None:
        """Check what no pattern tells.

        Raises:
            ConfigError: a port that does not exist, or one for two servers.
        """
        defects = [
            f"'{key}' cannot be {value!r}: ports end at 65535; mend that value"
            for key, value in (("address", self.address), ("listen", self.listen))
            if host_and_port(value)[1] > 65535
        ]
        if host_and_port(self.listen)[1] == self.superlink_port:
            port = self.superlink_port
            defects.append(f"'listen' and 'superlink_port' cannot both have port {port}; give another superlink_port")
        if defects:
            raise ConfigError(defects[0])


class Home:
    """An aggregator's folder that `aggregator.founding.create_home` has made."""

    def __init__(self, path: Path) -> None:
        """Open the folder.

        Raises:
            ConfigError: it is no aggregator's folder, or its settings are wrong.
        """
        self.path = path.absolute()
        # os.path says no where pathlib raises: the folder may be another user's.
        if not os.path.isfile(self.path / "aggregator.yaml"):
            raise ConfigError(f"{path} is not an aggregator's folder; make one with casam-aggregator init {path}")
        self.config = from_mapping(AggregatorConfig, read_yaml(self.path / "aggregator.yaml"), "aggregator.yaml")

    @property
    def keys(self) -> Path:
        """Folder of all secrets."""
        return self.path / "keys"

    @property
    def ca(self) -> Path:
        """PEM of the certificate authority."""
        return self.keys / "ca.pem"

    @property
    def server_certificate(self) -> Path:
        """PEM of the TLS key and certificate."""
        return self.keys / "server.pem"

    @property
    def superexec_secret(self) -> Path:
        """Secret that SuperLink and SuperExec share."""
        return self.keys / "superexec.secret"

    @property
    def app(self) -> Path:
        """The bundle of the delivery app."""
        return self.path / "app.fab"

    @property
    def bank(self) -> Path:
        """The layer bank."""
        return self.path / "bank"

    @property
    def audit(self) -> Path:
        """All that an auditor needs."""
        return self.path / "audit"

    @property
    def bank_log(self) -> Path:
        """The bank log."""
        return self.audit / "bank"

    @property
    def probes(self) -> Path:
        """Features of images that no router may claim."""
        return self.path / "probes.safetensors"

    @property
    def sites(self) -> Path:
        """One file per enrolled hospital."""
        return self.path / "sites"

    @property
    def admissions(self) -> Path:
        """What was decided about each release."""
        return self.path / "admissions"

    @property
    def quarantine(self) -> Path:
        """Releases that wait for a person."""
        return self.path / "quarantine"

    @property
    def kept(self) -> Path:
        """What log and bank lead to; it may be deleted."""
        return self.path / "kept"

    @property
    def reports(self) -> Path:
        """Aggregate scores, by digest of the bank and site."""
        return self.path / "reports"

    @property
    def progress(self) -> Path:
        """One line for everything that happened."""
        return self.path / "progress.jsonl"

    @property
    def runs(self) -> Path:
        """What each delivery came to."""
        return self.path / "flower" / "runs"

    @property
    def superlink_address(self) -> str:
        """HOST:PORT of the SuperLink, on loopback."""
        return f"127.0.0.1:{self.config.superlink_port}"

    def signing_key(self) -> Ed25519PrivateKey:
        """Return the key that snapshots are signed with.

        Raises:
            KeyFileError: as `load_private_key`.
        """
        return load_private_key(self.keys / "signing.key")

    def fingerprint(self) -> str:
        """Return the fingerprint of the signing key."""
        return fingerprint(self.signing_key().public_key())


def host_and_port(address: str) -> tuple[str, int]:
    """Take HOST:PORT apart; IPv6 hosts lose their brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def default_listen(address: str) -> str:
    """Return where to listen for sites that connect to `address`: all interfaces of its kind, the same port."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host.strip("[]")).version == 6:
            return f"[::]:{port}"
    return f"0.0.0.0:{port}"
