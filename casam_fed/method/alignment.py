"""The alignment layer: the only module of a task that changes what SAM sees (CA-SAM, arXiv 2511.17201).

Residual blocks with efficient channel attention (ECA-Net, Wang et al. 2020, arXiv 1910.03151) between the frozen
encoder and the frozen mask decoder. The names in its state dict are part of the release schema.
"""

import math
from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from casam_fed.errors import ReleaseError

__all__ = ["AlignmentLayer", "Start", "alignment_layer_from", "eca_kernel_size", "expected_shapes"]

Start = Literal["identity", "paper"]
"""identity: A(z) = z before the first step, no norm. paper: PyTorch's default weights, a shared norm after blocks."""

_NORM_EPS = 1e-6
_RELEASED_DTYPES = (torch.float32, torch.float16)


def eca_kernel_size(channels: int) -> int:
    """Return the width k of the channel attention over C channels: the next odd number from (|log2 C| + 1) // 2 on.

    C = 128 and 256 give 5, C = 32 gives 3. ECA-Net section 3.2 with gamma 2, b 1.
    """
    size = int((abs(math.log2(channels)) + 1) // 2)
    return size if size % 2 else size + 1


def expected_shapes(channels: int, blocks: int, start: Start) -> dict[str, tuple[int, ...]]:
    """Return the state dict of an `AlignmentLayer` as name -> shape, in its order; all are float32."""
    shapes: dict[str, tuple[int, ...]] = {}
    for block in range(blocks):
        for conv in ("conv1", "conv2"):
            shapes[f"block{block}.{conv}.weight"] = (channels, channels, 3, 3)
            shapes[f"block{block}.{conv}.bias"] = (channels,)
        shapes[f"block{block}.channel_conv.weight"] = (1, 1, eca_kernel_size(channels))
    if start == "paper":
        shapes |= {"norm.weight": (channels,), "norm.bias": (channels,)}
    return shapes


class AlignmentLayer(nn.Module):
    """Maps an embedding to one of the same shape that the frozen decoder segments the task better from.

    `blocks` residual blocks; with start "paper" each is followed by one LayerNorm over channels (eps 1e-6) whose weight
    and bias all blocks share. C = 256 with 3 blocks has 3,541,007 parameters with the norm, 3,540,495 without.
    """

    def __init__(self, channels: int, blocks: int = 3, start: Start = "identity", seed: int = 0) -> None:
        """Draw PyTorch's default weights from a generator seeded with `seed`; the global generators stay untouched.

        With start "identity" the second convolution of every block is zero instead, weight and bias, and there is no
        norm: the output then equals the input exactly. There is at least one channel and one block.
        """
        assert min(channels, blocks) >= 1, (channels, blocks)
        super().__init__()
        self.channels = channels
        self.blocks = blocks
        self.start: Start = start
        generator = torch.Generator().manual_seed(seed)
        for block in range(blocks):
            self.add_module(f"block{block}", _Block(channels, start == "identity", generator))
        self.norm = nn.LayerNorm(channels, eps=_NORM_EPS) if start == "paper" else None

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the aligned embedding, [B, C, h, w] like the input; its memory format may be channels last."""
        x = embedding
        for block in range(self.blocks):
            x = self.get_submodule(f"block{block}")(x)
            if self.norm is not None:
                x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x


def alignment_layer_from(state_dict: Mapping[str, Tensor]) -> AlignmentLayer:
    """Rebuild a trained layer from its tensors alone, in eval mode, float32, on the CPU; the tensors are copied.

    Channels, number of blocks and start are read off the names and shapes.

    Args:
        state_dict: the tensors of `expected_shapes` for some C, number of blocks and start, float32 or float16.

    Raises:
        ReleaseError: a tensor is missing, superfluous, or of another shape or dtype.
    """
    bias = state_dict.get("block0.conv1.bias", torch.empty(0))
    # A missing or empty bias is held against one channel, so that the comparison names it.
    channels = max(1, bias.shape[0] if bias.ndim else 0)
    blocks = max(1, sum(name.endswith(".channel_conv.weight") for name in state_dict))
    start: Start = "paper" if "norm.weight" in state_dict else "identity"
    shapes = expected_shapes(channels, blocks, start)
    defect = _first_difference(state_dict, shapes)
    if defect is not None:
        raise ReleaseError(
            f"the tensors are not those of an alignment layer: {defect}; release the state dict of an AlignmentLayer"
        )
    layer = AlignmentLayer(channels, blocks, start)
    layer.load_state_dict({name: state_dict[name] for name in shapes})
    return layer.eval()


class _Block(nn.Module):
    """Residual block with channel attention, C in and C out: x + u * sigmoid(conv1d over channels of mean(u))."""

    def __init__(self, channels: int, zero: bool, generator: torch.Generator) -> None:
        super().__init__()
        # Made on the meta device because a convolution's own first weights come from the global generator.
        size = eca_kernel_size(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, device="meta")
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, device="meta")
        self.channel_conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False, device="meta")
        self.to_empty(device="cpu")
        _draw_default(self.conv1, generator)
        if zero:
            nn.init.zeros_(self.conv2.weight)
            nn.init.zeros_(cast(Tensor, self.conv2.bias))
        else:
            _draw_default(self.conv2, generator)
        _draw_default(self.channel_conv, generator)

    def forward(self, x: Tensor) -> Tensor:
        u = self.conv2(functional.relu(self.conv1(functional.relu(x)), inplace=True))
        gate = self.channel_conv(u.mean((2, 3)).unsqueeze(1)).sigmoid()
        return torch.addcmul(x, u, gate.transpose(1, 2).unsqueeze(3))


def _draw_default(conv: nn.Conv1d | nn.Conv2d, generator: torch.Generator) -> None:
    # What torch.nn.Conv*.reset_parameters draws, in its order, but from a generator of our own.
    nn.init.kaiming_uniform_(conv.weight, a=math.sqrt(5), generator=generator)
    if conv.bias is not None:
        bound = 1 / math.sqrt(conv.weight[0].numel())
        nn.init.uniform_(conv.bias, -bound, bound, generator=generator)


def _first_difference(state_dict: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    for name in sorted(shapes.keys() ^ state_dict.keys()):
        return f"{name} {'is missing' if name in shapes else 'does not belong there'}"
    for name, shape in shapes.items():
        tensor = state_dict[name]
        if tuple(tensor.shape) != shape or tensor.dtype not in _RELEASED_DTYPES:
            return f"{name} is {tensor.dtype} {list(tensor.shape)} where float32 or float16 {list(shape)} belongs"
    return None
