"""`casam-site preview`: everything that would leave the building, to the last tensor."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from casam_fed.errors import ExchangeError
from casam_fed.host.command_line import folder_argument, json_option
from casam_fed.host.files import sha256_bytes
from site_client.home import SiteHome
from site_client.outbox import Outbox

__all__ = ["preview", "preview_text"]

_NEVER = (
    "images, masks, embeddings, scores of single images, file names, paths, patient identifiers, error messages,\n"
    "gradients, this site's private keys. What else goes out during a join: the answers listed in\n"
    "docs/reference/release.md, each written to the release log (casam-audit show) before it goes."
)


@click.command()
@folder_argument
@json_option
def preview(folder: Path, as_json: bool) -> None:
    """Show every tensor that would leave (name, shape, dtype, bytes, norm, digest), the card, and what never leaves."""
    home = SiteHome(folder)
    newest = Outbox(home).newest()
    if newest is None:
        raise ExchangeError(f"there is no release yet; run casam-site train {folder} first")
    if as_json:
        click.echo(json.dumps(_content(home, newest.digest), indent=1))
        return
    click.echo(preview_text(home, newest.digest))
    click.echo(f"Next: casam-site join {folder}")


def preview_text(home: SiteHome, digest: str) -> str:
    """Return the preview of a release in lines."""
    content = _content(home, digest)
    lines = [f"release {digest}, {content['bytes']:,} bytes, file {Outbox(home).path(digest)}", "tensors:"]
    for tensor in content["tensors"]:
        shape = " x ".join(map(str, tensor["shape"])) or "scalar"
        lines.append(
            f"  {tensor['name']:48} {shape:16} {tensor['dtype']:8} {tensor['bytes']:10,} bytes  "
            f"norm {tensor['norm']:<12.6g} sha256 {tensor['sha256'][:16]}"
        )
    lines.append("card:")
    lines += [f"  {name:18} {value}" for name, value in content["card"].items()]
    lines.append(f"never leaves: {_NEVER}")
    return "\n".join(lines)


def _content(home: SiteHome, digest: str) -> dict[str, Any]:
    from casam_fed.bank.release import parse
    from casam_fed.routing.state import router_tensors

    data = Outbox(home).path(digest).read_bytes()
    release = parse(data)
    tensors = {f"alignment.{name}": tensor for name, tensor in release.alignment.items()} | router_tensors(
        release.router
    )
    return {
        "digest": release.digest,
        "bytes": len(data),
        "tensors": [
            {
                "name": name,
                "shape": list(tensor.shape),
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "bytes": tensor.numel() * tensor.element_size(),
                "norm": float(tensor.double().norm()),
                "sha256": sha256_bytes(tensor.contiguous().numpy().tobytes()),
            }
            for name, tensor in sorted(tensors.items())
        ],
        "card": {name: value for name, value in asdict(release.card).items() if value is not None},
    }
