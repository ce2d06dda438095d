"""A federation for one seed, founded as a real one is: an aggregator's folder, a folder for every site, and enrolment.

Keys and certificate authority are made as always. Only what needs processes or another person is left out: the network,
and the telephone call in which fingerprints are compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from aggregator.enrolment import enrol_site
from aggregator.founding import create_home
from aggregator.home import AggregatorConfig, Home
from casam_fed.data.dataset import AnyData, PhantomData
from casam_fed.wire.enrolment import open_request
from simulations.run_folder import SeedFolder
from simulations.stream_config import StreamConfig
from site_client.home import SiteHome, create_site_home
from site_client.site_config import SiteConfig

__all__ = ["Federation", "found"]

_NOWHERE = "127.0.0.1:9"
"""Nobody connects to a simulated aggregator."""


@dataclass(frozen=True)
class Federation:
    """The aggregator, and the sites by name in the order in which they join."""

    home: Home
    sites: Mapping[str, SiteHome]


def found(folder: SeedFolder, stream: StreamConfig, root: Path, seed: int) -> Federation:
    """Found the federation of a seed.

    Args:
        folder: of the seed.
        stream: the stream.
        root: where relative data paths start.
        seed: of training and calibration.

    Raises:
        CasamError: as the parts say.
    """
    config = AggregatorConfig(
        federation=stream.stream,
        address=_NOWHERE,
        listen=_NOWHERE,
        superlink_port=18000,
        method=stream.method,
        minimum_images=stream.minimum_images,
    )
    home = create_home(folder.aggregator, config)
    sites = {}
    for site in stream.sites:
        made = create_site_home(folder.site(site.name), _settings(site, stream, root, seed))
        enrol_site(home, open_request(made.request.read_bytes()), made.path / "WELCOME.json")
        made.trust(made.welcome())
        sites[site.name] = made
    return Federation(home, sites)


def _settings(site: SiteConfig, stream: StreamConfig, root: Path, seed: int) -> dict[str, Any]:
    """Return a site.yaml: the site's block of the stream, and what a hospital's engineer would choose."""
    return {
        "name": site.name,
        "task": site.task,
        "modality": site.modality,
        "data": _data(site.data, root),
        "seed": seed,
        "device": stream.method.device,
        "threads": stream.method.threads,
        "minimum_images": stream.minimum_images,
    }


def _data(data: AnyData, root: Path) -> dict[str, Any]:
    """Return a `data:` block whose paths do not depend on where it is read."""
    plain: dict[str, Any] = TypeAdapter(type(data)).dump_python(data, mode="json", exclude_defaults=True)
    if not isinstance(data, PhantomData):
        plain["path"] = str(root / data.path)
        if data.split is not None:
            plain["split"] = str(root / data.split)
    return {"kind": data.kind, **plain}
