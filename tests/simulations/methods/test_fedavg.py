"""Federated averaging through the real handlers: what is averaged, and what is refused."""

import pytest
import torch
from flwr.app import Array, ArrayRecord
from flwr.clientapp import ClientApp
from safetensors.torch import load, save

from casam_fed.data.dataset import PhantomData
from casam_fed.errors import ExchangeError
from casam_fed.method.alignment import AlignmentLayer
from casam_fed.method.training import train_alignment
from casam_fed.wire.exchange import unwrap_bytes, wrap_bytes
from simulations.methods.fedavg import AVERAGE, add_fedavg, layer_bytes, run_fedavg
from simulations.nodes import Named
from site_client.client_app import answer, payload_of
from site_client.site_config import SiteConfig
from site_client.work import SiteWork

from ...loopback import LoopbackGrid
from .streams import METHOD

CONFIGS = (
    SiteConfig("heart", PhantomData("phantom", "cardiac_mr", train=6, test=2, seed=1)),
    SiteConfig("scope", PhantomData("phantom", "endoscopy", train=3, test=2, seed=2)),
)


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fedavg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASAM_CACHE", str(folder / "cache"))
        yield {
            config.name: SiteWork(config, METHOD, folder, folder / config.name, 0, lambda text: None)
            for config in CONFIGS
        }


def node(site: SiteWork) -> ClientApp:
    """Return the app of a node that stands for a site and takes part in federated averaging."""
    app = ClientApp()

    @app.query("name")
    def name(message, context):
        return answer(message, lambda _request: payload_of(Named(site.config.name)))

    add_fedavg(app, lambda _context, _seed: site)
    return app


class BackwardsGrid(LoopbackGrid):
    """Answers arrive in the other order."""

    def send_and_receive(self, messages, *, timeout=None):
        return list(super().send_and_receive(messages, timeout=timeout))[::-1]


def average(sites, names=("heart", "scope"), rounds=1, kind=LoopbackGrid):
    grid = kind([node(sites[name]) for name in names])
    first = AlignmentLayer(128, METHOD.blocks, seed=0)
    return run_fedavg(grid, names, first, 0, rounds, lambda text: None), grid


def test_one_site_in_one_round_learns_its_own_layer(sites):
    result, _ = average(sites, ("heart",))
    site = sites["heart"]
    alone = train_alignment(site.backbone, site.store, site.train_data(), METHOD, 0)
    assert all(torch.equal(tensor, alone.state_dict()[name]) for name, tensor in load(result.layer).items())


def test_the_average_weighs_every_site_by_its_images(sites):
    result, grid = average(sites)
    sent = [
        load(unwrap_bytes(message.content["arrays"]["layer"].data, 1 << 26, "a site"))
        for message in grid.received
        if message.metadata.message_type == AVERAGE
    ]
    assert len(sent) == 2
    for name, tensor in load(result.layer).items():
        assert torch.allclose(tensor, (sent[0][name] * 6 + sent[1][name] * 3) / 9, atol=1e-7)
    assert result.bytes_up == {"heart": len(save(sent[0])), "scope": len(save(sent[1]))}


def test_rounds_divide_the_steps_and_send_a_layer_each(sites):
    one, three = average(sites, rounds=1)[0], average(sites, rounds=3)[0]
    assert three.bytes_up["heart"] == 3 * one.bytes_up["heart"]
    assert three.layer != one.layer


def test_the_order_of_answers_does_not_matter(sites):
    assert average(sites)[0].layer == average(sites, kind=BackwardsGrid)[0].layer


BAD = {
    "not safetensors": (b"\x80\x04", "not an alignment layer"),
    "other tensors": (save({"weight": torch.zeros(3)}), "not an alignment layer"),
    "NaN": (
        save({name: tensor * torch.nan for name, tensor in AlignmentLayer(128).state_dict().items()}),
        "NaN or infinity",
    ),
    "another shape": (layer_bytes(AlignmentLayer(64)), "different shapes"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_layer_like_the_others_is_refused_and_the_sender_named(sites, case):
    data, reason = BAD[case]

    class Lying(LoopbackGrid):
        def send_and_receive(self, messages, *, timeout=None):
            replies = list(super().send_and_receive(messages, timeout=timeout))
            if "arrays" in replies[-1].content:
                array = Array("uint8", (len(data),), "numpy.ndarray", wrap_bytes(data))
                replies[-1].content["arrays"] = ArrayRecord({"layer": array})
            return replies

    with pytest.raises(ExchangeError, match=reason):
        average(sites, kind=Lying)


def test_a_site_refuses_a_layer_that_is_none(sites):
    grid = LoopbackGrid([node(sites["heart"])])

    class NoLayer(AlignmentLayer):
        def state_dict(self):
            return {"weight": torch.zeros(3)}

    with pytest.raises(ExchangeError, match="site heart failed with ExchangeError"):
        run_fedavg(grid, ("heart",), NoLayer(128), 0, 1, lambda text: None)
