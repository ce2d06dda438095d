"""A hospital's folder: one place for its settings, keys, outbox, journal and logs. Nothing outside it is written.

site.yaml      settings, to be read and edited by a person
keys/          signing key, SuperNode key, secret of the SuperNode's local port, all 0600; signing.pub is for auditors
REQUEST.json   goes to the aggregator's operator
WELCOME.json   comes back, and is put here
trusted.json   the aggregator's fingerprint, as a person has confirmed it
work/          all that is private (embeddings are in the cache folder), the outbox and the copy of the bank
audit/         the release log, what it speaks of, and the copy of the aggregator's bank log
progress.jsonl what happened, for whoever waits at the terminal
logs/          one file per process
"""

import contextlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from casam_fed import __version__
from casam_fed.audit.keys import fingerprint, load_private_key, private_pem, public_pem
from casam_fed.backbone.backbones import backbone_card
from casam_fed.config import MethodConfig, from_mapping, read_yaml
from casam_fed.errors import BackboneError, ConfigError, EnrolmentError
from casam_fed.host.files import as_storage_error, write_atomically
from casam_fed.host.line_log import append_event
from casam_fed.host.printable import printable
from casam_fed.wire.enrolment import EnrolmentRequest, Welcome, open_welcome, sign_request
from site_client.site_config import SiteSettings

__all__ = ["SiteHome", "create_site_home", "renew_keys"]

_MEND = "give a folder that this user can write"


class SiteHome:
    """A hospital's folder that `create_site_home` has made."""

    def __init__(self, path: Path) -> None:
        """Open the folder.

        Raises:
            ConfigError: it is no site's folder, or its settings are wrong.
        """
        self.path = path.absolute()
        if not (self.path / "site.yaml").is_file():
            raise ConfigError(f"{path} is not a site's folder; make one with casam-site init {path}")
        self.settings = from_mapping(SiteSettings, read_yaml(self.path / "site.yaml"), "site.yaml")

    @property
    def keys(self) -> Path:
        """Folder of all secrets."""
        return self.path / "keys"

    @property
    def request(self) -> Path:
        """What the aggregator's operator needs."""
        return self.path / "REQUEST.json"

    @property
    def work(self) -> Path:
        """All that is private."""
        return self.path / "work"

    @property
    def seeded(self) -> Path:
        """The part of it that belongs to the seed in force."""
        return self.work / f"seed-{self.settings.seed}"

    @property
    def outbox(self) -> Path:
        """Releases, and the statements by which they may leave."""
        return self.seeded / "outbox"

    @property
    def bank(self) -> Path:
        """The copy of the bank."""
        return self.seeded / "bank"

    def stage(self, bank: str) -> Path:
        """Return where this site keeps its scores under the bank with this digest."""
        return self.seeded / "stages" / f"{bank}.json"

    @property
    def audit(self) -> Path:
        """All that an auditor needs."""
        return self.path / "audit"

    def bank_log(self, welcome: Welcome) -> Path:
        """Return the copy of the bank log of that aggregator, whatever the seed: it only ever grows."""
        return self.audit / f"bank-{welcome.federation}-{welcome.fingerprint[:12]}"

    @property
    def progress(self) -> Path:
        """One line for everything that happened."""
        return self.path / "progress.jsonl"

    @property
    def stopped(self) -> Path:
        """Why this site no longer answers its aggregator, where it does not."""
        return self.work / "stopped.txt"

    def signing_key(self) -> Ed25519PrivateKey:
        """Return the key that releases are signed with.

        Raises:
            KeyFileError: as `load_private_key`.
        """
        return load_private_key(self.keys / "signing.key")

    def welcome(self) -> Welcome:
        """Return the welcome, checked against this site's name, key and backbone; whether a person trusts it is not asked.

        Raises:
            EnrolmentError: there is none yet, it is another site's, or it asks for another backbone than ours of that name.
        """
        path = self.path / "WELCOME.json"
        try:
            welcome = open_welcome(path.read_bytes())
        except OSError as error:
            raise EnrolmentError(
                f"there is no {path}; send {self.request} to the aggregator's operator and put their answer there"
            ) from error
        if welcome.site != self.settings.name:
            raise EnrolmentError(f"{path} welcomes {welcome.site}, not {self.settings.name}; ask for this site's own")
        if welcome.site_key != fingerprint(self.signing_key().public_key()):
            raise EnrolmentError(f"{path} was made for other keys than this site's; send {self.request} again")
        # The digest is our own catalogue's: a server could otherwise choose which weights are right.
        try:
            known = backbone_card(welcome.backbone).sha256
        except BackboneError:
            known = ""
        if known != welcome.backbone_digest:
            raise EnrolmentError(
                f"{path} asks for another backbone {welcome.backbone} than the one this version knows; "
                "run the same version at both ends"
            )
        return welcome

    def trusts(self, welcome: Welcome) -> bool:
        """Return whether a person has confirmed the aggregator's fingerprint, and all else that must not change."""
        try:
            known = json.loads((self.path / "trusted.json").read_bytes())
        except (OSError, ValueError):
            # Nobody was asked yet, or what they said is lost: they are asked.
            return False
        return bool(known == _confirmed(welcome))

    def trust(self, welcome: Welcome) -> None:
        """Keep what a person has confirmed."""
        write_atomically(self.path / "trusted.json", json.dumps(_confirmed(welcome), indent=1).encode())

    def method(self, welcome: Welcome) -> MethodConfig:
        """Return the federation's method on this machine."""
        return replace(welcome.method, device=self.settings.device, threads=self.settings.threads)

    def say(self, text: str) -> None:
        """Append one event to the progress file; lines this short reach the file whole.

        What the aggregator sent may be part of the text, which ends at a terminal. An event that cannot be written is lost:
        nothing else fails because of it.
        """
        with contextlib.suppress(OSError):
            append_event(self.progress, printable(text))


def create_site_home(path: Path, settings: dict[str, Any]) -> SiteHome:
    """Make a site's folder: settings, keys and the request.

    Raises:
        ConfigError: the folder holds something already, or a setting is wrong.
        StorageError: the disk is full or cannot be written; then nothing stays in the folder.
    """
    known = from_mapping(SiteSettings, settings, "the settings")
    text = "# Settings of this site; all keys: docs/reference/site-yaml.md\n" + yaml.safe_dump(
        settings, sort_keys=False
    )
    with as_storage_error("write", path, _MEND):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path} is not empty; give a new folder")
        path.mkdir(parents=True, exist_ok=True)
        os.chmod(path, 0o700)
        with _made_keys(path, known.name) as made:
            _replace_keys(path, made)
            try:
                # The settings come last: a folder without them is no site's.
                write_atomically(path / "site.yaml", text.encode())
            except BaseException:
                shutil.rmtree(path / "keys")
                (path / "REQUEST.json").unlink()
                raise
    return SiteHome(path)


def renew_keys(home: SiteHome) -> None:
    """Make new keys and a new request; the old keys are kept beside them and no longer used.

    Raises:
        StorageError: the disk is full or cannot be written; then the old keys stay in force.
    """
    with as_storage_error("write", home.path, _MEND), _made_keys(home.path, home.settings.name) as made:
        (home.path / "WELCOME.json").unlink(missing_ok=True)
        for statement in home.work.glob("seed-*/outbox/*.statement.json"):
            statement.unlink()
        _replace_keys(home.path, made)


@contextlib.contextmanager
def _made_keys(path: Path, name: str) -> Iterator[Path]:
    """Make keys and a request in a folder of their own inside `path`, which is gone afterwards."""
    made = Path(tempfile.mkdtemp(dir=path, prefix=".keys-"))
    try:
        _write_keys(made, name)
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _replace_keys(path: Path, made: Path) -> None:
    """Put new keys in force: renames alone, which need no space on the disk."""
    keys = path / "keys"
    if keys.exists():
        numbers = [old.name.rpartition("-")[2] for old in path.glob("keys-old-*")]
        last = max((int(number) for number in numbers if number.isdecimal()), default=0)
        keys.rename(path / f"keys-old-{last + 1}")
    (made / "REQUEST.json").replace(path / "REQUEST.json")
    (made / "keys").rename(keys)


def _write_keys(path: Path, name: str) -> None:
    keys = path / "keys"
    keys.mkdir(mode=0o700)
    signing, node = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())
    openssh = serialization.PrivateFormat.OpenSSH
    write_atomically(keys / "signing.key", private_pem(signing), private=True)
    write_atomically(keys / "signing.pub", public_pem(signing.public_key()).encode(), private=True)
    plain = serialization.NoEncryption()
    write_atomically(keys / "node.key", node.private_bytes(serialization.Encoding.PEM, openssh, plain), private=True)
    write_atomically(keys / "supernode.secret", secrets.token_hex(32).encode(), private=True)
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    node_pem = node.public_key().public_bytes(serialization.Encoding.PEM, info).decode("ascii")
    request = EnrolmentRequest(name, public_pem(signing.public_key()), node_pem, __version__)
    write_atomically(path / "REQUEST.json", sign_request(request, signing))


def _confirmed(welcome: Welcome) -> dict[str, str]:
    return {
        "federation": welcome.federation,
        "aggregator_key": welcome.fingerprint,
        "address": welcome.address,
        "ca": welcome.ca,
        "app": welcome.app,
        "backbone": welcome.backbone_digest,
        "method": welcome.method.digest,
    }
