"""The backbones we know: geometry, origin and pinned digest. Needs no torch.

ViT-B, L and H are the official checkpoints of Segment Anything (Kirillov et al. 2023, arXiv 2304.02643), Apache-2.0. The
mini SAM is ours, pre-trained on drawn images only, and ships inside the package.
"""

from dataclasses import dataclass

from casam_fed.errors import BackboneError

__all__ = ["BACKBONES", "BackboneCard", "Geometry", "backbone_card"]


@dataclass(frozen=True)
class Geometry:
    """Sizes of a SAM: what its modules are built from, and the shapes of what it returns.

    Attributes:
        image_size: side S of the square input, in pixels.
        patch_size: side of a patch, in pixels; the embedding's grid is S / patch_size.
        channels: C of the embedding [C, h, w].
        encoder_dim, encoder_depth, encoder_heads, window_size, global_attention: the ViT encoder.
        decoder_mlp_dim, decoder_heads, iou_head_dim: the mask decoder.
    """

    image_size: int
    patch_size: int
    channels: int
    encoder_dim: int
    encoder_depth: int
    encoder_heads: int
    window_size: int
    global_attention: tuple[int, ...]
    decoder_mlp_dim: int
    decoder_heads: int
    iou_head_dim: int

    @property
    def grid(self) -> int:
        """Side h = w of the embedding."""
        return self.image_size // self.patch_size

    @property
    def mask_size(self) -> int:
        """Side of the decoder's low-resolution logits, four times the embedding's."""
        return 4 * self.grid


@dataclass(frozen=True)
class BackboneCard:
    """What there is to know of a backbone.

    `sha256` pins the file at `url` (the official .pth) or, where `url` is None, the safetensors file in this package.
    """

    name: str
    geometry: Geometry
    sha256: str
    url: str | None
    download_mb: int
    licence: str = "Apache-2.0"


def _official(dim: int, depth: int, heads: int, global_attention: tuple[int, ...]) -> Geometry:
    return Geometry(1024, 16, 256, dim, depth, heads, 14, global_attention, 2048, 8, 256)


_ORIGIN = "https://dl.fbaipublicfiles.com/segment_anything"

BACKBONES: dict[str, BackboneCard] = {
    card.name: card
    for card in (
        BackboneCard(
            name="mini",
            geometry=Geometry(256, 16, 128, 192, 6, 6, 8, (2, 5), 512, 4, 128),
            sha256="925d09c3e1784492fe33b0b8c3fde885f1123a0da755ba45becc3759fcc66a31",
            url=None,
            download_mb=0,
        ),
        BackboneCard(
            name="vit_b",
            geometry=_official(768, 12, 12, (2, 5, 8, 11)),
            sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            url=f"{_ORIGIN}/sam_vit_b_01ec64.pth",
            download_mb=375,
        ),
        BackboneCard(
            name="vit_l",
            geometry=_official(1024, 24, 16, (5, 11, 17, 23)),
            sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            url=f"{_ORIGIN}/sam_vit_l_0b3195.pth",
            download_mb=1249,
        ),
        BackboneCard(
            name="vit_h",
            geometry=_official(1280, 32, 16, (7, 15, 23, 31)),
            sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            url=f"{_ORIGIN}/sam_vit_h_4b8939.pth",
            download_mb=2564,
        ),
    )
}


def backbone_card(name: str) -> BackboneCard:
    """Return the card of the backbone `name`.

    Raises:
        BackboneError: no such backbone; the message lists those there are.
    """
    if name not in BACKBONES:
        raise BackboneError(f"unknown backbone '{name}'; choose one of {', '.join(BACKBONES)}")
    return BACKBONES[name]
