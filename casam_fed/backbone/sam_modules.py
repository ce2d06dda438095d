"""The one place that imports segment_anything.

`import segment_anything` pulls in torchvision for its image predictor, which we do not use and which cannot load beside
every CPU build of torch. When the plain import fails, an empty package module with the right path takes its place, so
that `segment_anything.modeling` and `segment_anything.build_sam` load without the package's own `__init__`.
"""

import importlib.util
import sys
import types
from functools import partial

from torch import nn

from casam_fed.backbone.backbones import Geometry
from casam_fed.errors import BackboneError

__all__ = ["Sam", "build_sam"]


def _ensure_importable() -> None:
    try:
        importlib.import_module("segment_anything.modeling")
        return
    except Exception:
        # A torchvision made for another torch raises whatever it likes (seen: RuntimeError, OSError, AttributeError); what
        # is segment_anything's own fault is raised again by the import below.
        for name in [name for name in sys.modules if name.split(".")[0] in ("segment_anything", "torchvision")]:
            del sys.modules[name]
    spec = importlib.util.find_spec("segment_anything")
    if spec is None or spec.submodule_search_locations is None:
        raise BackboneError("segment-anything is not installed; install casam-fed with its dependencies")
    package = types.ModuleType("segment_anything")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["segment_anything"] = package


_ensure_importable()
from segment_anything.modeling import (  # noqa: E402
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)


def build_sam(geometry: Geometry) -> Sam:
    """Return a SAM of the given geometry with random weights (Kirillov et al. 2023, arXiv 2304.02643)."""
    grid = geometry.image_size // geometry.patch_size
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=geometry.image_size,
            patch_size=geometry.patch_size,
            embed_dim=geometry.encoder_dim,
            depth=geometry.encoder_depth,
            num_heads=geometry.encoder_heads,
            out_chans=geometry.channels,
            window_size=geometry.window_size,
            global_attn_indexes=geometry.global_attention,
            mlp_ratio=4,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            qkv_bias=True,
            use_rel_pos=True,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=geometry.channels,
            image_embedding_size=(grid, grid),
            input_image_size=(geometry.image_size, geometry.image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=geometry.channels,
            transformer=TwoWayTransformer(
                depth=2,
                embedding_dim=geometry.channels,
                mlp_dim=geometry.decoder_mlp_dim,
                num_heads=geometry.decoder_heads,
            ),
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=geometry.iou_head_dim,
        ),
    )
