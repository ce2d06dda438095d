"""A new aggregator: its folder, keys, certificate, app, and an empty bank with the first entry of its log.

`casam-aggregator init` founds a federation's; a simulation founds one for every seed. What depends on the backbone alone is
computed once in a process.
"""

import contextlib
import functools
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.torch import save
from torch import Tensor

from aggregator.authority import create_authority
from aggregator.home import AggregatorConfig, Home, host_and_port
from aggregator.ledger import begin_ledger
from aggregator.superlink import build_app
from casam_fed.audit.keys import private_pem, public_pem
from casam_fed.backbone.model import load_backbone
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.config import MethodConfig
from casam_fed.errors import ConfigError
from casam_fed.host.files import as_storage_error, sha256_bytes, write_atomically
from casam_fed.routing.background import background_of
from casam_fed.routing.gaussian import Background
from casam_fed.routing.overlap import probe_features

__all__ = ["create_home"]

_MEND = "give a folder that this user can write"


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
    name, device = config.method.backbone, config.method.device
    digest, background, probes = _about_backbone(name, device)
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
        app = build_app()
        write_atomically(path / "app.fab", app)
        bank = LayerBank.create(path / "bank", name, digest, background)
        begin_ledger(path / "audit" / "bank", config.federation, signing, sha256_bytes(app), bank.snapshot())
        write_atomically(path / "probes.safetensors", save(dict(probes)))
        write_atomically(path / "aggregator.yaml", _settings(config))
    return Home(path)


@functools.cache
def _about_backbone(name: str, device: str) -> tuple[str, Background, Mapping[str, Tensor]]:
    """Return digest, background statistics and probe features of a backbone; some hundred images are encoded for them."""
    backbone = load_backbone(name, device)
    return backbone.digest, background_of(backbone), probe_features(backbone)


@contextlib.contextmanager
def _taken_back(path: Path) -> Iterator[None]:
    """Remove what was made in `path`, which was empty or absent, if anything fails."""
    was_there = path.exists()
    with contextlib.ExitStack() as undo:
        undo.callback(_remove, path, itself=not was_there)
        yield
        undo.pop_all()


def _remove(path: Path, *, itself: bool) -> None:
    with contextlib.suppress(OSError):
        for made in path.iterdir():
            shutil.rmtree(made) if made.is_dir() else made.unlink()
        if itself:
            path.rmdir()


def _settings(config: AggregatorConfig) -> bytes:
    values: dict[str, Any] = asdict(config)
    standard = asdict(MethodConfig())
    values["method"] = {key: value for key, value in values["method"].items() if value != standard[key]}
    text = "# Settings of this aggregator; all keys: docs/reference/aggregator-yaml.md\n"
    return (text + yaml.safe_dump(values, sort_keys=False)).encode()
