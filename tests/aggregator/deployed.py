"""An aggregator's folder and real deployed sites, met in this process: no Flower process, everything else as it is."""

from pathlib import Path
from typing import Any

from aggregator.enrolment import enrol_site
from aggregator.founding import create_home
from aggregator.home import AggregatorConfig, Home
from casam_fed.config import MethodConfig
from casam_fed.wire.enrolment import open_request
from site_client.answering import AnsweringSite
from site_client.client_app import make_client_app
from site_client.home import SiteHome, create_site_home
from site_client.join import ensure_trained
from site_client.outbox import Outbox

from ..loopback import LoopbackGrid

METHOD = MethodConfig(epochs=1, min_steps=2, batch_size=4, masks_per_image=1, point_share=0.0)


def new_home(path: Path) -> Home:
    """Make an aggregator's folder."""
    return create_home(path, AggregatorConfig("test", "127.0.0.1:9443", "127.0.0.1:9443", 9444, METHOD))


def new_site(home: Home, path: Path, modality: str, seed: int = 1, images: int = 12) -> SiteHome:
    """Make a site's folder, enrol it, train it and let its release go."""
    data = {"kind": "phantom", "modality": modality, "train": images, "test": 10, "seed": seed}
    site = create_site_home(path, {"name": path.name, "data": data, "threads": 1, "device": "cpu"})
    enrol_site(home, open_request(site.request.read_bytes()), site.path / "WELCOME.json")
    welcome = site.welcome()
    digest = ensure_trained(site, welcome, lambda text: None).digest
    size = Outbox(site).path(digest).stat().st_size
    Outbox(site).approve(digest, size, site.settings.site.task_name, welcome, "option")
    return site


def grid_of(*sites: SiteHome | Any) -> LoopbackGrid:
    """Return a grid whose nodes are these sites; what is no site's folder answers by itself."""

    return LoopbackGrid(
        [make_client_app(AnsweringSite(site) if isinstance(site, SiteHome) else site) for site in sites]
    )
