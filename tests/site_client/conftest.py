"""One trained site for all tests of this folder; each test takes a copy."""

import shutil

import pytest

from casam_fed.bank.layer_bank import LayerBank
from casam_fed.bank.release import pack, parse
from casam_fed.routing.background import background_of
from site_client.home import SiteHome
from site_client.join import ensure_trained
from site_client.outbox import Outbox

from .deployed_sites import welcomed_home


@pytest.fixture(scope="session")
def trained(tmp_path_factory, cache):
    """A site of 12 + 12 drawn images after two steps of training; nobody has approved anything."""
    home = welcomed_home(tmp_path_factory.mktemp("trained") / "clinic")
    ensure_trained(home, home.welcome(), lambda text: None)
    return home


@pytest.fixture
def home(trained, tmp_path):
    """A copy of the trained site's folder."""
    shutil.copytree(trained.path, tmp_path / "clinic")
    return SiteHome(tmp_path / "clinic")


@pytest.fixture(scope="session")
def banks(trained, mini_backbone, tmp_path_factory):
    """The aggregator's bank as it grew: without entries, with another site's, and with ours too."""
    release = parse(Outbox(trained).path(Outbox(trained).newest().digest).read_bytes())
    card = release.card
    other = pack(release.alignment, release.router, type(card)(**{**vars(card), "site": "other", "task": "other"}))
    found = []
    for count in range(3):
        folder = tmp_path_factory.mktemp("banks") / str(count)
        bank = LayerBank.create(folder, "mini", mini_backbone.digest, background_of(mini_backbone))
        for each in (other, release)[:count]:
            bank.admit(each)
        found.append(bank)
    return found
