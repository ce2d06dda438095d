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
flower/           Flower's own state
logs/             one file per process
"""

import contextlib
import ipaddress
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field
from pydantic.dataclasses import dataclass

from aggregator.authority import authority_pem, create_authority
from casam_fed.audit.keys import fingerprint, load_private_key, private_pem, public_pem
from casam_fed.bank.snapshot import read_snapshot
from casam_fed.config import MethodConfig, from_mapping, read_yaml
from casam_fed.errors import ConfigError
from casam_fed.forms import STRICT, Slug
from casam_fed.host.files import as_storage_error, sha256_file, write_atomically
from casam_fed.wire.enrolment import Address, EnrolmentRequest, Welcome

__all__ = ["AggregatorConfig", "Home", "create_home", "default_listen", "host_and_port", "welcome_of"]

_MEND = "give a folder that this user can write"

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
        for key in ("address", "listen"):
            if host_and_port(getattr(self, key))[1] > 65535:
                raise ConfigError(f"'{key}' cannot be {getattr(self, key)!r}: ports end at 65535; mend that value")
        if host_and_port(self.listen)[1] == self.superlink_port:
            raise ConfigError(
                f"'listen' and 'superlink_port' cannot both have port {self.superlink_port}; give another superlink_port"
            )


class Home:
    """An aggregator's folder that `create_home` has made."""

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


def create_home(path: Path, config: AggregatorConfig) -> Home:
    """Make an aggregator's folder: keys, certificate, app and an empty bank for the backbone.

    The settings are written last, so that an interrupted call leaves no folder that looks finished. A call that fails takes
    back what it has made, so that it can be repeated.

    Raises:
        ConfigError: the folder holds something already, or the address has no usable host.
        BackboneError: the backbone is unknown or not on this machine.
        StorageError: the disk is full or cannot be written.
    """
    with as_storage_error("write", path, _MEND):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path} is not empty; give a new folder")
    # torch and Flower take seconds to import, and only this needs both.
    from safetensors.torch import save

    from aggregator.ledger import begin_ledger
    from aggregator.superlink import build_app
    from casam_fed.backbone.model import load_backbone
    from casam_fed.bank.layer_bank import LayerBank
    from casam_fed.routing.background import background_of
    from casam_fed.routing.overlap import probe_features

    backbone = load_backbone(config.method.backbone, config.method.device)
    with as_storage_error("write", path, _MEND), _taken_back(path):
        path.mkdir(parents=True, exist_ok=True)
        # Flower's database in it holds whole messages: nothing here is for other users.
        os.chmod(path, 0o700)
        keys = path / "keys"
        keys.mkdir(mode=0o700)
        create_authority(keys, config.federation, host_and_port(config.address)[0])
        signing = Ed25519PrivateKey.generate()
        write_atomically(keys / "signing.key", private_pem(signing), private=True)
        write_atomically(keys / "signing.pub", public_pem(signing.public_key()).encode(), private=True)
        write_atomically(keys / "superexec.secret", secrets.token_hex(32).encode(), private=True)
        write_atomically(path / "app.fab", build_app())
        bank = LayerBank.create(path / "bank", backbone.name, backbone.digest, background_of(backbone))
        app = sha256_file(path / "app.fab")
        begin_ledger(path / "audit" / "bank", config.federation, signing, app, bank.snapshot())
        write_atomically(path / "probes.safetensors", save(probe_features(backbone)))
        write_atomically(path / "aggregator.yaml", _settings(config))
    return Home(path)


def welcome_of(home: Home, request: EnrolmentRequest) -> Welcome:
    """Return the answer to a request that was enrolled.

    Raises:
        KeyFileError, BankError, StorageError: the aggregator's own files are not in order.
    """
    snapshot = read_snapshot(home.bank)
    standard = MethodConfig()
    return Welcome(
        federation=home.config.federation,
        site=request.site,
        site_key=request.fingerprint,
        address=home.config.address,
        ca=authority_pem(home.keys),
        aggregator_key=public_pem(home.signing_key().public_key()),
        app=sha256_file(home.app),
        backbone=snapshot.backbone,
        backbone_digest=snapshot.backbone_digest,
        method=replace(home.config.method, device=standard.device, threads=standard.threads),
    )


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


@contextlib.contextmanager
def _taken_back(path: Path) -> Iterator[None]:
    """Remove what was made in `path`, which was empty or absent, if anything fails."""
    was_there = path.exists()
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for made in path.iterdir():
                shutil.rmtree(made) if made.is_dir() else made.unlink()
            if not was_there:
                path.rmdir()
        raise


def _settings(config: AggregatorConfig) -> bytes:
    values: dict[str, Any] = asdict(config)
    standard = asdict(MethodConfig())
    values["method"] = {key: value for key, value in values["method"].items() if value != standard[key]}
    text = "# Settings of this aggregator; all keys: docs/reference/aggregator-yaml.md\n"
    return (text + yaml.safe_dump(values, sort_keys=False)).encode()
