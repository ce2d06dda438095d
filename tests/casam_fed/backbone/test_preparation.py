"""The way from a source image to the backbone's square and back is one way, for images of any shape."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from casam_fed.backbone.preparation import PreparedImage, frame_of, normalise, prepare

SQUARE = 256

SHAPES = {
    "square": (256, 256),
    "portrait": (411, 173),
    "landscape": (90, 317),
    "odd and larger": (1023, 767),
    "small": (33, 57),
    "one pixel high": (1, 64),
    "far too long": (3, 2000),
}


def picture(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_pad_keeps_the_aspect_ratio_and_fills_the_longest_side(shape):
    frame = frame_of(shape, SQUARE, "pad")
    assert max(frame.fitted) == SQUARE
    assert min(frame.fitted) == max(1, round(min(shape) * SQUARE / max(shape) + 1e-9))
    assert prepare(picture(shape), SQUARE, "pad").pixels.shape == (*frame.fitted, 3)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_stretch_fills_the_square(shape):
    assert frame_of(shape, SQUARE, "stretch").fitted == (SQUARE, SQUARE)
    assert prepare(picture(shape), SQUARE, "stretch").pixels.shape == (SQUARE, SQUARE, 3)


def test_stretch_takes_source_pixels_and_pad_mixes_them():
    image = np.where(np.indices((300, 200)).sum(axis=0) % 2 == 0, 255, 0).astype(np.uint8)[..., None].repeat(3, axis=2)
    assert set(np.unique(prepare(image, SQUARE, "stretch").pixels)) == {0, 255}
    assert len(np.unique(prepare(image, SQUARE, "pad").pixels)) > 2


def test_an_image_of_the_right_size_is_not_touched():
    image = picture((SQUARE, 171))
    assert np.array_equal(prepare(image, SQUARE, "pad").pixels, image)


@pytest.mark.parametrize("shape", [(640, 427), (100, 80)])
def test_pad_resizes_as_segment_anything_does(shape):
    """Its ResizeLongestSide turns the array into a PIL image and resizes that bilinearly; so written out here."""
    image = picture(shape)
    scale = SQUARE / max(shape)
    height, width = int(shape[0] * scale + 0.5), int(shape[1] * scale + 0.5)
    expected = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    assert np.array_equal(prepare(image, SQUARE, "pad").pixels, expected)


@pytest.mark.parametrize("shape", [(64, 64), (41, 64), (64, 7)])
def test_normalise_is_segment_anythings_preprocess(tiny_backbone, shape):
    image = picture(shape)
    expected = tiny_backbone.sam.preprocess(torch.from_numpy(image).permute(2, 0, 1).float())
    assert torch.equal(normalise(image, 64), expected)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("shape", [(256, 256), (411, 173), (190, 317), (1023, 767), (133, 57)])
def test_a_rectangle_its_box_and_its_mask_line_up(shape, fit):
    """Draw a rectangle, map its tight box into the square, paint the box there, and bring the paint back."""
    height, width = shape
    y0, x0, y1, x1 = height // 5, width // 4, int(height * 0.7), int(width * 0.8)
    truth = np.zeros(shape, dtype=bool)
    truth[y0 : y1 + 1, x0 : x1 + 1] = True
    frame = frame_of(shape, SQUARE, fit)
    left, top, right, bottom = frame.boxes_to_square(np.array([[x0, y0, x1, y1]], dtype=np.float32))[0]

    # Paint at the low resolution from a fine drawing, so that the paint is not limited by its own grid.
    rows, columns = np.mgrid[:SQUARE, :SQUARE]
    inside = (rows >= top - 0.5) & (rows <= bottom + 0.5) & (columns >= left - 0.5) & (columns <= right + 0.5)
    paint = F.interpolate(torch.from_numpy(inside)[None, None].float() * 2 - 1, (64, 64), mode="area")
    back = frame.to_source(paint)[0].numpy() > 0
    assert back.shape == shape
    overlap = (back & truth).sum() / (back | truth).sum()
    assert overlap > 0.95

    # The fitted picture shows the rectangle where the box says.
    pixels = prepare(np.repeat(truth[..., None], 3, axis=2).astype(np.uint8) * 255, SQUARE, fit).pixels[..., 0] > 127
    ys, xs = np.nonzero(pixels)
    assert np.abs(np.array([xs.min(), ys.min(), xs.max(), ys.max()]) - [left, top, right, bottom]).max() <= 1


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_the_box_of_the_whole_image_is_the_box_of_the_whole_frame(fit):
    frame = frame_of((411, 173), SQUARE, fit)
    whole = frame.boxes_to_square(np.array([[0, 0, 172, 410]], dtype=np.float32))
    np.testing.assert_allclose(whole, [[0, 0, frame.fitted[1] - 1, frame.fitted[0] - 1]], atol=1e-4)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_the_point_of_a_pixel_is_the_middle_of_what_it_becomes(fit):
    """Enlarged eightfold, pixel 5 becomes pixels 40 to 47."""
    points = frame_of((32, 32), SQUARE, fit).points_to_square(np.array([[5, 0], [31, 20]]))
    assert points.dtype == np.float32
    assert points.tolist() == [[43.5, 3.5], [251.5, 163.5]]
    assert frame_of((SQUARE, SQUARE), SQUARE, fit).points_to_square(points).tolist() == points.tolist()


def test_the_box_of_one_pixel_never_turns_inside_out():
    """Shrunk eightfold, a pixel is narrower than the step from its first to its last."""
    boxes = frame_of((2048, 2048), SQUARE, "pad").boxes_to_square(np.array([[9, 9, 9, 9]], dtype=np.float32))
    assert (boxes[:, 2:] >= boxes[:, :2]).all()


def test_logits_come_back_as_segment_anythings_postprocess_brings_them(tiny_backbone):
    frame = frame_of((50, 83), 64, "pad")
    logits = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = tiny_backbone.sam.postprocess_masks(logits, frame.fitted, frame.source)
    assert torch.equal(frame.to_source(logits), expected[:, 0])
    assert frame.to_square(logits).shape == (3, 64, 64)


def test_the_digest_names_what_the_encoder_sees():
    image = prepare(picture((64, 48)), SQUARE, "pad")
    again = prepare(picture((64, 48)), SQUARE, "pad")
    changed = image.pixels.copy()
    changed[5, 5, 1] ^= 1
    turned = PreparedImage(np.ascontiguousarray(image.pixels.reshape(192, 256, 3)), image.frame)
    assert image.digest == again.digest
    others = [
        PreparedImage(changed, image.frame),
        turned,
        prepare(picture((64, 48)), SQUARE, "stretch"),
        prepare(picture((64, 48)), 128, "pad"),
    ]
    assert len({image.digest, *(other.digest for other in others)}) == 5
