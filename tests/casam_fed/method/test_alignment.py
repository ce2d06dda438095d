"""The alignment layer: exact at its start, equal to the golden numbers, rebuilt from its tensors and nothing else."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from casam_fed.errors import ReleaseError
from casam_fed.method.alignment import AlignmentLayer, Start, alignment_layer_from, eca_kernel_size, expected_shapes

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "alignment.safetensors"


def parameter_count(layer: nn.Module) -> int:
    return sum(parameter.numel() for parameter in layer.parameters())


def embedding(channels: int = 8, side: int = 5) -> Tensor:
    return torch.randn((2, channels, side, side), generator=torch.Generator().manual_seed(1))


def state(start: Start = "paper") -> dict[str, Tensor]:
    return dict(AlignmentLayer(8, blocks=2, start=start, seed=3).state_dict())


@torch.no_grad()
def naive_forward(tensors: dict[str, Tensor], blocks: int, z: Tensor) -> Tensor:
    """One pixel and one channel at a time, in float64, straight from method section 2."""
    x = z.double()
    weights = {name: tensor.double() for name, tensor in tensors.items()}

    def conv3x3(values: Tensor, name: str) -> Tensor:
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        _, _, height, width = values.shape
        padded = torch.zeros((*values.shape[:2], height + 2, width + 2), dtype=torch.float64)
        padded[:, :, 1:-1, 1:-1] = values
        out = torch.empty_like(values)
        for row in range(height):
            for column in range(width):
                patch = padded[:, :, row : row + 3, column : column + 3]
                out[:, :, row, column] = torch.einsum("bcij,ocij->bo", patch, weight) + bias
        return out

    for block in range(blocks):
        u = conv3x3(x.clamp(min=0), f"block{block}.conv1")
        u = conv3x3(u.clamp(min=0), f"block{block}.conv2")
        means, kernel = u.mean((2, 3)), weights[f"block{block}.channel_conv.weight"][0, 0]
        reach, channels = len(kernel) // 2, means.shape[1]
        for channel in range(channels):
            around = [c for c in range(channel - reach, channel + reach + 1) if 0 <= c < channels]
            gate = torch.sigmoid(sum(means[:, c] * kernel[c - channel + reach] for c in around))
            x[:, channel] += u[:, channel] * gate[:, None, None]
        if "norm.weight" in weights:
            mean, variance = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
            x = (x - mean) / (variance + 1e-6).sqrt()
            x = x * weights["norm.weight"][:, None, None] + weights["norm.bias"][:, None, None]
    return x


def test_output_equals_the_golden_numbers() -> None:
    golden = load_file(GOLDEN)
    tensors = {name: tensor for name, tensor in golden.items() if name not in ("input", "output")}
    with torch.no_grad():
        output = alignment_layer_from(tensors)(golden["input"])
    assert (output - golden["output"]).abs().max() <= 1e-5 * golden["output"].abs().max()


@pytest.mark.parametrize("start", ["identity", "paper"])
def test_output_equals_the_slow_forward_after_the_weights_have_moved(start: Start) -> None:
    layer, generator = AlignmentLayer(8, blocks=2, start=start), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
        output = layer(embedding())
    expected = naive_forward(dict(layer.state_dict()), 2, embedding())
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-5)


def test_three_blocks_over_256_channels_have_the_parameters_of_the_paper() -> None:
    assert parameter_count(AlignmentLayer(256, start="paper")) == 3_541_007
    assert parameter_count(AlignmentLayer(256)) == 3_541_007 - 2 * 256


@pytest.mark.parametrize(("channels", "size"), [(256, 5), (128, 5), (64, 3), (32, 3), (8, 3), (2, 1), (1, 1)])
def test_the_attention_kernel_is_odd_and_grows_with_the_channels(channels: int, size: int) -> None:
    assert eca_kernel_size(channels) == size


@pytest.mark.parametrize("channels", [8, 128])
def test_a_layer_started_at_the_identity_returns_its_input_exactly(channels: int) -> None:
    z = embedding(channels, 16)
    assert torch.equal(AlignmentLayer(channels, seed=5)(z), z)


def test_a_layer_started_at_the_identity_learns_from_its_first_step() -> None:
    layer = AlignmentLayer(8, seed=5)
    layer(embedding()).square().sum().backward()
    for block in range(3):
        assert layer.get_submodule(f"block{block}").conv2.weight.grad.abs().max() > 0


def test_a_layer_started_as_in_the_paper_does_not_return_its_input() -> None:
    assert not torch.allclose(AlignmentLayer(8, start="paper")(embedding()), embedding(), atol=0.1)


@pytest.mark.parametrize("start", ["identity", "paper"])
def test_the_embedding_may_be_of_any_size_and_batch(start: Start) -> None:
    z = torch.zeros((3, 8, 2, 7))
    assert AlignmentLayer(8, start=start)(z).shape == z.shape


def test_the_same_seed_draws_the_same_weights_and_another_seed_others() -> None:
    first, again, other = (AlignmentLayer(8, start="paper", seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["block0.conv1.weight"], other["block0.conv1.weight"])


def test_drawing_weights_leaves_the_global_generator_where_it_was() -> None:
    before = torch.get_rng_state()
    AlignmentLayer(8, start="paper", seed=3)
    alignment_layer_from(state())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_paper_start_draws_the_weights_pytorch_would_draw_by_default() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        convolutions = [nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv1d(1, 1, 3, bias=False)]
    tensors = state()
    assert torch.equal(tensors["block0.conv1.weight"], convolutions[0].weight)
    assert torch.equal(tensors["block0.conv1.bias"], convolutions[0].bias)
    assert torch.equal(tensors["block0.conv2.weight"], convolutions[1].weight)
    assert torch.equal(tensors["block0.conv2.bias"], convolutions[1].bias)
    assert torch.equal(tensors["block0.channel_conv.weight"], convolutions[2].weight)
    assert torch.equal(tensors["norm.weight"], torch.ones(8))
    assert torch.equal(tensors["norm.bias"], torch.zeros(8))


@pytest.mark.parametrize("start", ["identity", "paper"])
def test_the_state_dict_has_the_expected_names_and_shapes_in_order(start: Start) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in AlignmentLayer(32, start=start).state_dict().items()}
    assert list(found.items()) == list(expected_shapes(32, 3, start).items())
    assert any(name.startswith("norm") for name in found) == (start == "paper")


def test_the_golden_tensors_are_those_of_a_paper_layer() -> None:
    golden = load_file(GOLDEN)
    found = {name: tuple(tensor.shape) for name, tensor in golden.items() if name not in ("input", "output")}
    assert found == expected_shapes(32, 3, "paper")


@pytest.mark.parametrize("start", ["identity", "paper"])
def test_a_layer_is_rebuilt_from_its_tensors_alone(start: Start) -> None:
    layer = AlignmentLayer(8, blocks=2, start=start, seed=3)
    with torch.no_grad():
        layer.get_parameter("block1.conv2.weight").fill_(0.01)
    rebuilt = alignment_layer_from(layer.state_dict())
    assert (rebuilt.channels, rebuilt.blocks, rebuilt.start, rebuilt.training) == (8, 2, start, False)
    assert torch.equal(rebuilt(embedding()), layer.eval()(embedding()))


def test_a_rebuilt_layer_shares_no_memory_with_the_tensors_it_came_from() -> None:
    tensors = state("identity")
    rebuilt = alignment_layer_from(tensors)
    tensors["block1.conv2.bias"].fill_(1.0)
    assert torch.equal(rebuilt(embedding()), embedding())


def test_half_precision_tensors_are_taken_and_computed_in_float32() -> None:
    rebuilt = alignment_layer_from({name: tensor.half() for name, tensor in state().items()})
    assert {parameter.dtype for parameter in rebuilt.parameters()} == {torch.float32}
    assert torch.equal(rebuilt.get_parameter("block0.conv1.weight"), state()["block0.conv1.weight"].half().float())


@pytest.mark.parametrize("name", sorted(state()))
def test_a_missing_tensor_is_refused(name: str) -> None:
    tensors = state()
    del tensors[name]
    with pytest.raises(ReleaseError, match=r"alignment layer: \S+ .*(is missing|does not belong there)"):
        alignment_layer_from(tensors)


@pytest.mark.parametrize(
    "name", ["block2.conv1.weight", "block2.channel_conv.weight", "block00.conv1.bias", "norm2.weight", "extra"]
)
def test_a_superfluous_tensor_is_refused(name: str) -> None:
    with pytest.raises(ReleaseError, match="alignment layer"):
        alignment_layer_from({**state(), name: torch.zeros(8)})


@pytest.mark.parametrize("name", sorted(state()))
def test_a_tensor_of_another_shape_is_refused(name: str) -> None:
    wrong = torch.zeros((*state()[name].shape, 1))
    with pytest.raises(ReleaseError, match=f"{name} is .* belongs; release the state dict of an AlignmentLayer"):
        alignment_layer_from({**state(), name: wrong})


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int8, torch.complex64])
def test_a_tensor_of_another_dtype_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ReleaseError, match=r"block1\.conv2\.bias"):
        alignment_layer_from({**state(), "block1.conv2.bias": torch.zeros(8, dtype=dtype)})


def test_no_tensors_or_no_channels_are_refused() -> None:
    with pytest.raises(ReleaseError, match="missing"):
        alignment_layer_from({})
    with pytest.raises(ReleaseError, match="missing"):
        alignment_layer_from({"block0.conv1.bias": torch.zeros(0)})
