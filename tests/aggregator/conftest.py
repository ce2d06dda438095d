"""One aggregator's folder, made once; each test takes a copy."""

import os
import shutil

import pytest
from safetensors.torch import load_file, save_file

from aggregator import founding
from aggregator.founding import create_home
from aggregator.home import AggregatorConfig, Home
from aggregator.ledger import begin_ledger
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.config import MethodConfig
from casam_fed.host.files import sha256_file

from ..casam_fed.bank.releases import BACKBONE_DIGEST
from .small_sites import BACKGROUND, PROBES, SmallSite


@pytest.fixture(scope="session")
def made_home(tmp_path_factory):
    """An aggregator's folder as `casam-aggregator init` leaves it; whoever changes it takes a copy."""
    method = MethodConfig(epochs=3, device="cpu", threads=1)
    path = tmp_path_factory.mktemp("made") / "aggregator"
    before = os.umask(0o022)
    try:
        return create_home(path, AggregatorConfig("north", "127.0.0.1:8443", "127.0.0.1:8444", 18443, method, 10))
    finally:
        os.umask(before)


@pytest.fixture
def quick(monkeypatch, made_home):
    """Make folders without encoding an image: what that gives was made once."""
    bank = LayerBank(made_home.bank)
    made = bank.snapshot().backbone_digest, bank.background, load_file(made_home.probes)
    monkeypatch.setattr(founding, "_about_backbone", lambda name, device: made)


@pytest.fixture
def new_home(made_home, tmp_path):
    """A copy of it."""
    shutil.copytree(made_home.path, tmp_path / "aggregator")
    return Home(tmp_path / "aggregator")


@pytest.fixture
def small_home(new_home):
    """The same with a bank of 8 channels, for releases that cost no training."""
    shutil.rmtree(new_home.bank)
    shutil.rmtree(new_home.bank_log)
    bank = LayerBank.create(new_home.bank, "tiny", BACKBONE_DIGEST, BACKGROUND)
    begin_ledger(new_home.bank_log, "north", new_home.signing_key(), sha256_file(new_home.app), bank.snapshot())
    save_file(PROBES, new_home.probes)
    return new_home


@pytest.fixture
def north(small_home):
    """An enrolled site."""
    return SmallSite("north", small_home, 0.0)


@pytest.fixture
def south(small_home):
    """Another one, whose images look otherwise."""
    return SmallSite("south", small_home, 8.0)


@pytest.fixture
def west(small_home):
    """A third one."""
    return SmallSite("west", small_home, -8.0)
