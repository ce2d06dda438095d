"""`casam backbone`: the catalogue on this machine, and the mini SAM's pre-training and measurement."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from casam_fed.backbone.backbones import BACKBONES, BackboneCard, backbone_card
from casam_fed.backbone.checkpoints import card_for_file, import_checkpoint, is_present, pull, verified_weights
from casam_fed.errors import BackboneError, CasamError, DataError
from casam_fed.host.files import sha256_file, write_atomically

__all__ = ["backbone"]


@click.group()
def backbone() -> None:
    """List, fetch, check and pre-train backbones."""


@backbone.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(as_json: bool) -> None:
    """Show the backbones there are, and which of them are on this machine."""
    rows = [_row(card) for card in BACKBONES.values()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    line = "{:8} {:>6} {:>13} {:>9}  {:4} {:11} {:13} {}"
    click.echo(line.format("name", "image", "embedding", "download", "here", "licence", "SHA-256", "origin"))
    for row in rows:
        size = f"{row['download_mb']} MB" if row["download_mb"] else "shipped"
        here = "yes" if row["present"] else "no"
        values = (row["name"], row["image_size"], row["embedding"], size, here, row["licence"], row["sha256"][:12])
        click.echo(line.format(*values, row["origin"]))


@backbone.command("pull")
@click.argument("name")
def pull_command(name: str) -> None:
    """Download the official checkpoint of NAME, check it against its pinned digest, and keep it as safetensors."""
    card = backbone_card(name)
    with click.progressbar(length=card.download_mb * 2**20 or 1, label=f"downloading {name}") as bar:
        last = 0

        def progress(received: int, total: int) -> None:
            nonlocal last
            if total:
                bar.length = total
            bar.update(received - last)
            last = received

        path = pull(card, progress)
    click.echo(f"{name} is ready: {path}")


@backbone.command("import")
@click.argument("file", type=click.Path(path_type=Path))
def import_command(file: Path) -> None:
    """Take an official SAM checkpoint that you already have; its digest says which one it is."""
    card = card_for_file(file, [card for card in BACKBONES.values() if card.url is not None])
    click.echo(f"{card.name} is ready: {import_checkpoint(file, card)}")


@backbone.command("verify")
@click.argument("name", required=False)
def verify_command(name: str | None) -> None:
    """Check the digest of NAME, or of all backbones on this machine."""
    cards = [backbone_card(name)] if name else [card for card in BACKBONES.values() if is_present(card)]
    failed = []
    for card in cards:
        try:
            verified_weights(card)
            click.echo(f"{card.name}: verified")
        except CasamError as error:
            failed.append(str(error))
            click.echo(f"{card.name}: FAILED, {error}")
    if failed:
        raise BackboneError(f"{len(failed)} of {len(cards)} backbones cannot be used; see the lines above")


@backbone.command("pretrain")
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The safetensors file to write (fp16).",
)
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Keeps a checkpoint to go on from.")
@click.option("--steps", default=6500, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
def pretrain_command(out: Path, work: Path, steps: int, seed: int, device: str) -> None:
    """Pre-train the mini SAM on drawn images and write its weights."""
    _try_writing(out)
    from safetensors.torch import save

    from casam_fed.backbone.model import choose_device
    from simulations.mini_sam.pretrain import PretrainOptions, pretrain

    options = PretrainOptions(steps=steps, seed=seed)
    sam = pretrain(backbone_card("mini").geometry, options, work, choose_device(device), click.echo)
    tensors = {name: tensor.half().cpu().contiguous() for name, tensor in sorted(sam.state_dict().items())}
    made = json.dumps(asdict(options), sort_keys=True)
    write_atomically(out, save(tensors, {"pretraining": made}))
    click.echo(f"{out}: SHA-256 {sha256_file(out)}, made with {made}")


@backbone.command("measure")
@click.option("--name", default="mini", show_default=True)
@click.option("--draws", default=500, show_default=True, type=click.IntRange(min=0), help="Fresh drawn images.")
@click.option(
    "--nuclei",
    type=click.Path(path_type=Path),
    help="Folder with a folder per site, each with test/images and test/masks.",
)
@click.option("--device", default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def measure_command(name: str, draws: int, nuclei: Path | None, device: str, as_json: bool) -> None:
    """Measure plain prompted segmentation: drawn images, and the test images of a folder of instance-labelled sites."""
    sites = _sites_in(nuclei) if nuclei else []
    from casam_fed.backbone.model import load_backbone
    from simulations.mini_sam.measure import measure_drawn, measure_instances

    loaded = load_backbone(name, device)
    result: dict[str, Any] = {"backbone": name, "sha256": loaded.digest, "draws": draws, "sites": {}}
    if draws:
        box, point = measure_drawn(loaded, draws)
        result |= {"drawn_box_iou": box, "drawn_point_iou": point}
        _say(f"{draws} drawn images: box-prompted IoU {box:.3f}, one-point-prompted IoU {point:.3f}", as_json)
    for site in sites:
        every, largest = measure_instances(loaded, site)
        result["sites"][site.name] = {"iou_all": every, "iou_five_largest": largest}
        _say(
            f"{site.name}: tight box per instance, IoU {every:.3f} over all, {largest:.3f} over the five largest",
            as_json,
        )
    if as_json:
        click.echo(json.dumps(result, indent=2))


def _say(line: str, as_json: bool) -> None:
    if not as_json:
        click.echo(line)


def _sites_in(folder: Path) -> list[Path]:
    sites = sorted(path for path in folder.iterdir() if (path / "test").is_dir()) if folder.is_dir() else []
    if not sites:
        raise DataError(f"{folder} has no folder with test/images and test/masks in it; give the folder of the sites")
    return sites


def _try_writing(path: Path) -> None:
    """Find out now, and not after hours of training, that `path` cannot be written."""
    probe = path.with_name(f".{path.name}.probe")
    write_atomically(probe, b"")
    probe.unlink()


def _row(card: BackboneCard) -> dict[str, Any]:
    geometry = card.geometry
    return {
        "name": card.name,
        "image_size": geometry.image_size,
        "embedding": f"{geometry.channels}x{geometry.grid}x{geometry.grid}",
        "download_mb": card.download_mb,
        "present": is_present(card),
        "licence": card.licence,
        "sha256": card.sha256,
        "origin": card.url or "pre-trained by casam-fed on drawn images",
    }
