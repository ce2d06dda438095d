"""Federated averaging (McMahan et al. 2017, arXiv 1602.05629, algorithm 1) of one shared layer over all sites, by Flower.

A baseline of the simulation only: a deployed site takes no weights to train from anybody, so this handler is not part of
site_client. The average is taken in the order of the sites, not of their answers: the same seed gives the same bits.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from aggregator.dialogue import bytes_of, text_of
from casam_fed.errors import ExchangeError, ReleaseError
from casam_fed.forms import STRICT
from casam_fed.method.alignment import AlignmentLayer, alignment_layer_from
from casam_fed.method.fitting import adam, batch_at, fit, total_steps
from casam_fed.method.task_data import EncodedImage
from casam_fed.wire.exchange import decode_json
from simulations.nodes import ask, meet
from site_client.client_app import answer, bytes_record, payload_of
from site_client.work import SiteWork

__all__ = ["AVERAGE", "Cost", "FedAvgResult", "Turn", "add_fedavg", "layer_bytes", "layer_of", "run_fedavg"]

AVERAGE = "train.average"


@dataclass(frozen=True, config=STRICT)
class Turn:
    """What the server asks with the shared layer: to take this round's part of the site's steps."""

    seed: int
    round: int
    rounds: int


@dataclass(frozen=True, config=STRICT)
class Turned:
    """What accompanies the layer that a site sends back: its number of training images, which is its weight."""

    images: int
    seconds: float


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class Cost:
    """What the averaging took: bytes that each site has sent, its seconds of training, and the seconds of the whole.

    The peak memory of all processes in MB is known only to what watches them.
    """

    bytes_up: dict[str, int]
    seconds: dict[str, float]
    wall_s: float
    peak_rss_mb: float | None = None


class FedAvgResult:
    """The averaged layer, and what it took."""

    def __init__(self, sites: Sequence[str]) -> None:
        self.layer = b""
        self.bytes_up = dict.fromkeys(sites, 0)
        self.seconds = dict.fromkeys(sites, 0.0)
        self._started = time.monotonic()

    def as_json(self) -> bytes:
        """Return the `Cost` as a JSON file."""
        cost = Cost(self.bytes_up, self.seconds, time.monotonic() - self._started)
        return TypeAdapter(Cost).dump_json(cost, indent=1)


def run_fedavg(
    grid: Grid, sites: Sequence[str], first: AlignmentLayer, seed: int, rounds: int, say: Callable[[str], None]
) -> FedAvgResult:
    """Train `first` at all sites for a number of rounds, averaging after each.

    Raises:
        ExchangeError: a site is missing, fails, or sends something that is not a layer like the one it got.
    """
    nodes = meet(grid, sites)
    say(f"{len(nodes)} sites are online")
    result = FedAvgResult(sites)
    result.layer = layer_bytes(first)
    for number in range(rounds):
        turn = Turn(seed, number, rounds)
        arrays = {site: {"layer": result.layer} for site in sites}
        replies = ask(grid, nodes, AVERAGE, dict.fromkeys(sites, turn), arrays)
        layers, weights = [], []
        for site in sites:
            sender = f"site {site}"
            data = bytes_of(replies[site], "layer", sender)
            turned = decode_json(Turned, text_of(replies[site]), sender)
            layers.append(layer_of(data, sender).state_dict())
            weights.append(turned.images)
            result.bytes_up[site] += len(data)
            result.seconds[site] += turned.seconds
        result.layer = save(_average(layers, weights))
        say(f"round {number + 1} of {rounds} averaged")
    return result


def add_fedavg(app: ClientApp, site_of: Callable[[Context, int], SiteWork]) -> None:
    """Let a simulated site's ClientApp take part in federated averaging."""

    @app.train("average")
    def average(message: Message, context: Context) -> Message:
        def work(turn: Turn) -> RecordDict:
            data = bytes_of(message.content, "layer", "the aggregator")
            trained, turned = _take_turn(site_of(context, turn.seed), layer_of(data, "the aggregator"), turn)
            content = payload_of(turned)
            content["arrays"] = bytes_record("layer", trained)
            return content

        return answer(message, work, Turn)


def layer_bytes(layer: AlignmentLayer) -> bytes:
    """Return a layer as safetensors bytes."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in layer.state_dict().items()})


def layer_of(data: bytes, sender: str) -> AlignmentLayer:
    """Parse `layer_bytes` from outside.

    Raises:
        ExchangeError: not safetensors, not the tensors of an alignment layer, or NaN or infinity among them.
    """
    try:
        layer = alignment_layer_from(load(data))
    except (SafetensorError, ReleaseError, ValueError) as error:
        raise ExchangeError(f"{sender} sent something that is not an alignment layer ({error})") from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in layer.state_dict().values()):
        raise ExchangeError(f"{sender} sent a layer with NaN or infinity; lower learning_rate and run again")
    return layer


def _take_turn(site: SiteWork, layer: AlignmentLayer, turn: Turn) -> tuple[bytes, Turned]:
    """Take this round's part of the steps that the site would take for a layer of its own, with a fresh optimizer."""
    config, images = site.method, site.train_data().with_targets
    layer = layer.to(site.backbone.device)
    steps = total_steps(len(images), config)
    part = range(turn.round * steps // turn.rounds, (turn.round + 1) * steps // turn.rounds)

    def images_of(step: int) -> list[EncodedImage]:
        return batch_at(images, step, config.batch_size, site.seed)

    started = time.monotonic()
    fit(site.backbone, site.store, layer, adam(layer, config), config, site.seed, part, images_of)
    return layer_bytes(layer), Turned(len(images), time.monotonic() - started)


def _average(layers: Sequence[Mapping[str, Tensor]], weights: Sequence[int]) -> dict[str, Tensor]:
    if len({tuple((name, tensor.shape) for name, tensor in layer.items()) for layer in layers}) != 1:
        raise ExchangeError("the sites sent layers of different shapes; use the same YAML everywhere")
    total = sum(weights)
    return {
        name: sum(
            (layer[name].double() * (weight / total) for layer, weight in zip(layers, weights, strict=True)),
            torch.zeros(layers[0][name].shape, dtype=torch.float64),
        ).float()
        for name in layers[0]
    }
