"""The folder reader: what it accepts, what it says about it, and what it refuses in one sentence."""

import contextlib
import os
import re
import struct
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from casam_fed.data.folder import open_folder
from casam_fed.data.sample import Reader, Record, Sample
from casam_fed.data.split import split_records
from casam_fed.errors import ConfigError

from .tiny_images import refused, save

H, W = 24, 32
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
DISC = np.zeros((H, W), dtype=np.uint8)
DISC[6:18, 8:22] = 1


def pair(root: Path, name: str = "a", image: np.ndarray = COLOUR, mask: np.ndarray = DISC) -> Path:
    save(root / "images" / f"{name}.png", image)
    save(root / "masks" / f"{name}.png", mask)
    return root


def only(reader: Reader) -> Sample:
    (record,) = reader.records()
    return reader.read(record)


def png_16_bit_colour(path: Path, pixels: np.ndarray) -> None:
    """Write uint16 [H,W,3] as PNG, which Pillow cannot."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


# Layouts and names


def test_images_and_masks_pair_by_name_whatever_their_extension(tmp_path: Path) -> None:
    for image, mask in (("b.jpg", "b.tiff"), ("a.1.TIF", "a.1.png"), ("c.JPEG", "c.tif")):
        save(tmp_path / "images" / image, COLOUR)
        save(tmp_path / "masks" / mask, DISC)
    reader: Reader = open_folder(tmp_path, ("gland",))
    assert reader.records() == [Record(name, name, None) for name in ("a.1", "b", "c")]
    assert all(reader.read(record).masks["gland"].sum() == DISC.sum() for record in reader.records())


def test_train_and_test_folders_fix_the_split(tmp_path: Path) -> None:
    pair(tmp_path / "train", "x")
    pair(tmp_path / "test", "x")
    records = open_folder(tmp_path, ("gland",)).records()
    assert records == [Record("test/x", "test/x", "test"), Record("train/x", "train/x", "train")]
    assert split_records(records) == records


def test_hidden_files_are_ignored(tmp_path: Path) -> None:
    pair(tmp_path)
    for litter in ("images/._a.png", "masks/._b.png", "images/.DS_Store", "images/Thumbs.db"):
        (tmp_path / litter).write_bytes(b"not an image")
    assert [record.id for record in open_folder(tmp_path, ("gland",)).records()] == ["a"]


def test_names_with_accents_pair_up_however_they_are_composed(tmp_path: Path) -> None:
    save(tmp_path / "images" / f"{unicodedata.normalize('NFD', 'lésion')}.png", COLOUR)
    save(tmp_path / "masks" / f"{unicodedata.normalize('NFC', 'lésion')}.png", DISC)
    assert only(open_folder(tmp_path, ("gland",))).id == unicodedata.normalize("NFC", "lésion")


@pytest.mark.parametrize(
    ("expression", "patient"), [(r"^(P\d+)_", "P07"), (r"P\d+", "P07"), (r"^.*_(\d)$", "3"), (r"(P\d+)_(\d)", "P07")]
)
def test_the_patient_is_the_first_group_or_the_whole_match(tmp_path: Path, expression: str, patient: str) -> None:
    pair(tmp_path, "P07_3")
    (record,) = open_folder(tmp_path, ("gland",), patient=expression).records()
    assert record.patient == patient


@pytest.mark.parametrize("expression", [r"Q\d+", r"(Q)?P07", r"x*"])
def test_a_name_without_a_patient_is_refused(tmp_path: Path, expression: str) -> None:
    pair(tmp_path, "P07_3")
    assert "finds no patient in the name 'P07_3'" in refused(open_folder(tmp_path, ("gland",), patient=expression))


def test_a_folder_of_another_layout_is_refused(tmp_path: Path) -> None:
    assert "neither layout" in refused(open_folder(tmp_path, ("gland",)))
    pair(tmp_path)
    pair(tmp_path / "train")
    assert "both layouts" in refused(open_folder(tmp_path, ("gland",)))


@pytest.mark.parametrize("missing", ["masks", "images"])
def test_a_missing_folder_is_named(tmp_path: Path, missing: str) -> None:
    pair(tmp_path)
    (tmp_path / missing / "a.png").unlink()
    (tmp_path / missing).rmdir()
    assert f"{tmp_path / missing} does not exist" in refused(open_folder(tmp_path, ("gland",)))


def test_a_train_folder_without_a_test_folder_is_refused(tmp_path: Path) -> None:
    pair(tmp_path / "train")
    assert f"{tmp_path / 'test' / 'images'} does not exist" in refused(open_folder(tmp_path, ("gland",)))


def test_empty_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    assert "holds no image" in refused(open_folder(tmp_path, ("gland",)))


def test_an_image_without_mask_and_a_mask_without_image_are_refused(tmp_path: Path) -> None:
    pair(tmp_path)
    extra = save(tmp_path / "images" / "b.png", COLOUR)
    save(tmp_path / "images" / "c.png", COLOUR)
    message = refused(open_folder(tmp_path, ("gland",)))
    assert f"image {extra} has no mask" in message
    assert "(1 more like it" in message
    for name in "bc":
        (tmp_path / "images" / f"{name}.png").unlink()
    extra = save(tmp_path / "masks" / "b.png", DISC)
    assert f"mask {extra} has no image" in refused(open_folder(tmp_path, ("gland",)))


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    pair(tmp_path)
    save(tmp_path / "images" / "a.jpg", COLOUR)
    assert "share the name 'a'" in refused(open_folder(tmp_path, ("gland",)))


def test_files_of_another_kind_are_refused_rather_than_skipped(tmp_path: Path) -> None:
    pair(tmp_path)
    (tmp_path / "images" / "a2.dcm").write_bytes(b"DICM")
    assert "a2.dcm is not a PNG, JPEG or TIFF" in refused(open_folder(tmp_path, ("gland",)))


# Images


def test_colour_and_grey_images_become_three_channels_of_8_bits(tmp_path: Path) -> None:
    alpha = np.full((H, W, 1), 7, dtype=np.uint8)
    grey = COLOUR[:, :, :1]
    images = {
        "rgb": (COLOUR, COLOUR),
        "rgba": (np.concatenate([COLOUR, alpha], 2), COLOUR),
        "grey": (grey[:, :, 0], np.repeat(grey, 3, 2)),
        "grey-alpha": (np.concatenate([grey, alpha], 2), np.repeat(grey, 3, 2)),
        "one-bit": (DISC.astype(bool), np.repeat(DISC[:, :, None] * 255, 3, 2)),
    }
    for name, (image, _) in images.items():
        pair(tmp_path, name, image)
    reader = open_folder(tmp_path, ("gland",))
    for record in reader.records():
        sample = reader.read(record)
        assert (sample.image.dtype, sample.image.flags.writeable) == (np.uint8, True)
        np.testing.assert_array_equal(sample.image, images[record.id][1], err_msg=record.id)
    assert reader.notes == []


def test_a_palette_image_shows_its_colours(tmp_path: Path) -> None:
    pair(tmp_path)
    image = Image.fromarray(DISC)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "images" / "a.png")
    pixels = only(open_folder(tmp_path, ("gland",))).image
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert pixels[10, 10].tolist() == [200, 100, 50]


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_16_bit_grey_is_rescaled_between_its_percentiles_and_said_so(tmp_path: Path, extension: str) -> None:
    deep = RNG.integers(300, 4000, (H, W)).astype(np.uint16)
    deep[0, 0], deep[0, 1] = 65535, 0
    save(tmp_path / "images" / f"a.{extension}", deep)
    save(tmp_path / "masks" / "a.png", DISC)
    reader = open_folder(tmp_path, ("gland",))
    low, high = np.percentile(deep, 0.5), np.percentile(deep, 99.5)
    expected = [[min(max(round((value - low) / (high - low) * 255), 0), 255) for value in row] for row in deep.tolist()]
    np.testing.assert_array_equal(only(reader).image, np.repeat(np.array(expected)[:, :, None], 3, axis=2))
    assert reader.notes == ["Deep grey images: 1 rescaled from their 0.5th to 99.5th percentile."]


def test_a_few_bright_spots_on_black_and_a_flat_image_survive_rescaling(tmp_path: Path) -> None:
    spots = np.zeros((H, W), dtype=np.uint16)
    spots[3, 4], spots[5, 6] = 900, 300
    pair(tmp_path, "spots", spots)
    pair(tmp_path, "flat", np.full((H, W), 5000, dtype=np.uint16))
    reader = open_folder(tmp_path, ("gland",))
    with np.errstate(all="raise"):
        flat, bright = (reader.read(record).image for record in reader.records())
    assert flat.max() == 0
    assert (bright[3, 4].tolist(), bright[5, 6].tolist(), bright.sum()) == ([255] * 3, [85] * 3, 3 * (255 + 85))


def test_signed_and_floating_point_tiffs_are_rescaled(tmp_path: Path) -> None:
    ramp = np.linspace(-1000, 1000, H * W).reshape(H, W)
    for name, kind in (("ct", np.int16), ("float", np.float32)):
        pair(tmp_path, name)
        (tmp_path / "images" / f"{name}.png").unlink()
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", ramp.astype(kind))
    reader = open_folder(tmp_path, ("gland",))
    for record in reader.records():
        image = reader.read(record).image[:, :, 0]
        assert (image[0, 0], image[-1, -1]) == (0, 255)
        assert (np.diff(image.ravel().astype(int)) >= 0).all()


def test_white_is_zero_tiffs_are_turned_right_side_up(tmp_path: Path) -> None:
    for name, kind in (("deep", np.uint16), ("shallow", np.uint8)):
        pair(tmp_path, name)
        (tmp_path / "images" / f"{name}.png").unlink()
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", (DISC * 200).astype(kind), photometric="miniswhite")
    reader = open_folder(tmp_path, ("gland",))
    for record in reader.records():
        image = reader.read(record).image
        assert image[0, 0, 0] == 255 > image[10, 10, 0]


def test_an_image_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    pair(tmp_path)
    (tmp_path / "images" / "a.png").unlink()
    tifffile.imwrite(tmp_path / "images" / "a.tif", np.full((H, W), np.nan, dtype=np.float32))
    assert "not finite" in refused(open_folder(tmp_path, ("gland",)))


def test_16_bit_colour_keeps_its_high_byte_and_is_said_so(tmp_path: Path) -> None:
    deep = RNG.integers(0, 65536, (H, W, 3)).astype(np.uint16)
    for name in ("png", "tif"):
        pair(tmp_path, name)
        (tmp_path / "images" / f"{name}.png").unlink()
    png_16_bit_colour(tmp_path / "images" / "png.png", deep)
    tifffile.imwrite(tmp_path / "images" / "tif.tif", deep, photometric="rgb")
    reader = open_folder(tmp_path, ("gland",))
    for record in reader.records():
        np.testing.assert_array_equal(reader.read(record).image, deep >> 8)
    assert reader.notes == ["16-bit colour images: 2 reduced to their high byte."]


def test_a_cmyk_image_is_refused(tmp_path: Path) -> None:
    pair(tmp_path)
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "images" / "a.tif")
    (tmp_path / "images" / "a.png").unlink()
    assert "mode CMYK" in refused(open_folder(tmp_path, ("gland",)))


@pytest.mark.parametrize("folder", ["images", "masks"])
@pytest.mark.parametrize("extension", ["png", "jpg", "tif"])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, folder: str, extension: str) -> None:
    pair(tmp_path)
    (tmp_path / folder / "a.png").unlink()
    path = save(tmp_path / folder / f"a.{extension}", COLOUR if folder == "images" else DISC)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert f"{path} cannot be read" in refused(open_folder(tmp_path, ("gland",)))


def test_a_png_with_one_byte_changed_anywhere_in_its_pixels_is_refused(tmp_path: Path) -> None:
    path = pair(tmp_path) / "masks" / "a.png"
    whole = path.read_bytes()
    start = whole.index(b"IDAT") + 4
    for place in range(start, start + int.from_bytes(whole[start - 8 : start - 4], "big")):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert f"{path} cannot be read" in refused(open_folder(tmp_path, ("gland",)))


@pytest.mark.parametrize("content", [b"", b"hello", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"])
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (pair(tmp_path) / "images" / "a.png").write_bytes(content)
    assert "its content is none of these" in refused(open_folder(tmp_path, ("gland",)))


@pytest.mark.parametrize("side", [8193, 12000, 60000])
def test_a_decompression_bomb_is_refused_before_it_unpacks(tmp_path: Path, side: int) -> None:
    path = pair(tmp_path) / "images" / "a.png"
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    with pytest.warns(Image.DecompressionBombWarning) if side == 12000 else contextlib.nullcontext():
        assert f"{path} claims more than 67,108,864 pixels" in refused(open_folder(tmp_path, ("gland",)))


def test_a_file_of_several_pages_is_refused(tmp_path: Path) -> None:
    pair(tmp_path)
    (tmp_path / "images" / "a.png").unlink()
    tifffile.imwrite(tmp_path / "images" / "a.tif", np.zeros((3, H, W), dtype=np.uint8), photometric="minisblack")
    assert "holds 3 pages" in refused(open_folder(tmp_path, ("gland",)))


@pytest.mark.parametrize("folder", ["images", "masks"])
@pytest.mark.parametrize("extension", ["jpg", "png", "tif"])
def test_exif_orientation_is_refused_in_image_and_mask_unless_upright(
    tmp_path: Path, folder: str, extension: str
) -> None:
    pair(tmp_path)
    (tmp_path / folder / "a.png").unlink()
    pixels = COLOUR if folder == "images" else DISC * 255
    exif = Image.Exif()
    exif[274] = 1
    path = save(tmp_path / folder / f"a.{extension}", pixels, exif=exif)
    assert only(open_folder(tmp_path, ("gland",))).masks["gland"].any()
    exif[274] = 6
    save(path, pixels, exif=exif)
    assert f"{path} carries EXIF orientation 6" in refused(open_folder(tmp_path, ("gland",)))


# Masks


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, bool])
@pytest.mark.parametrize("high", [1, 255])
def test_binary_masks_hold_0_and_1_or_0_and_255(tmp_path: Path, kind: type, high: int) -> None:
    pair(tmp_path, mask=(DISC * np.uint8(high)).astype(kind))
    sample = only(open_folder(tmp_path, ("gland",)))
    assert list(sample.masks) == ["gland"]
    assert sample.instances == {}
    assert sample.masks["gland"].dtype == np.bool_
    np.testing.assert_array_equal(sample.masks["gland"], DISC == 1)


@pytest.mark.parametrize("values", [(0, 2), (1, 255), (0, 254)])
def test_binary_masks_with_other_values_are_refused(tmp_path: Path, values: tuple[int, int]) -> None:
    pair(tmp_path, mask=np.where(DISC, *reversed(values)).astype(np.uint8))
    assert re.search(r"mask .*a\.png holds the value \d+ where only 0, \d+", refused(open_folder(tmp_path, ("g",))))


def test_class_masks_hold_the_position_of_the_class(tmp_path: Path) -> None:
    values = np.zeros((H, W), dtype=np.uint8)
    values[:4], values[4:9] = 1, 3
    pair(tmp_path, mask=values)
    sample = only(open_folder(tmp_path, ("lv", "myo", "rv"), "classes"))
    assert list(sample.masks) == ["lv", "myo", "rv"]
    assert sample.instances == {}
    for value, name in enumerate(sample.masks, start=1):
        np.testing.assert_array_equal(sample.masks[name], values == value)


def test_a_class_value_that_is_not_declared_is_refused(tmp_path: Path) -> None:
    pair(tmp_path, mask=DISC * 3)
    message = refused(open_folder(tmp_path, ("lv", "myo"), "classes"))
    assert f"mask {tmp_path / 'masks' / 'a.png'} holds the value 3 where only 0, 1, 2 are declared" in message


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_instance_masks_are_numbered_in_order_and_their_union_is_the_class(tmp_path: Path, kind: type) -> None:
    values = np.zeros((H, W), dtype=kind)
    for column, value in ((2, 7), (9, 1), (20, np.iinfo(kind).max)):
        values[3:8, column : column + 5] = value
    pair(tmp_path, mask=values)
    sample = only(open_folder(tmp_path, ("nucleus",), "instances"))
    instances = sample.instances["nucleus"]
    assert instances.dtype == np.int32
    assert np.unique(instances).tolist() == [0, 1, 2, 3]
    assert [int(instances[4, column]) for column in (3, 10, 21)] == [2, 1, 3]
    np.testing.assert_array_equal(sample.masks["nucleus"], values > 0)


def test_an_instance_mask_of_only_0_and_255_is_taken_for_the_binary_mask_it_is(tmp_path: Path) -> None:
    pair(tmp_path, mask=DISC * 255)
    assert "set labels to binary" in refused(open_folder(tmp_path, ("nucleus",), "instances"))


def test_label_values_outside_16_bits_are_refused(tmp_path: Path) -> None:
    for value in (-1, 70_000):
        pair(tmp_path)
        (tmp_path / "masks" / "a.png").unlink()
        tifffile.imwrite(tmp_path / "masks" / "a.tif", DISC.astype(np.int32) * value)
        assert f"holds the value {value}, outside" in refused(open_folder(tmp_path, ("nucleus",), "instances"))
        (tmp_path / "masks" / "a.tif").unlink()


def test_empty_masks_are_kept_counted_once_and_noted(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    pair(tmp_path, "b", mask=DISC * 0)
    for labels in ("binary", "classes", "instances"):
        reader = open_folder(tmp_path, ("gland",), labels)
        assert reader.notes == []
        for record in reader.records() * 2:
            reader.read(record)
        assert not reader.read(reader.records()[1]).masks["gland"].any()
        assert reader.notes == ["Empty masks: 1 of 2 read so far; they are kept, not replaced."]


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("colour", [False, True])
def test_jpeg_masks_are_thresholded_at_128_and_said_so_whatever_they_are_called(
    tmp_path: Path, name: str, colour: bool
) -> None:
    save(tmp_path / "images" / "a.png", COLOUR)
    pixels = np.repeat(DISC[:, :, None] * 255, 3, 2) if colour else DISC * 255
    path = save(tmp_path / "masks" / name, pixels, format="JPEG", quality=40)
    decoded = np.asarray(Image.open(path).convert("L")).astype(int)
    reader = open_folder(tmp_path, ("gland",))
    np.testing.assert_array_equal(only(reader).masks["gland"], decoded >= 128)
    between = int(((decoded != 0) & (decoded != 255)).sum())
    assert between > 0
    assert reader.notes == [
        f"JPEG masks: 1 thresholded at 128; {between:,} of their {H * W:,} pixels were neither 0 nor 255."
    ]


def test_a_jpeg_mask_whose_colours_differ_only_by_noise_is_grey(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", COLOUR)
    path = save(tmp_path / "masks" / "a.jpg", np.stack([DISC * 250, DISC * 255, DISC * 245], 2), quality=95)
    decoded = np.asarray(Image.open(path))
    assert (decoded != decoded[:, :, :1]).any()
    np.testing.assert_array_equal(only(open_folder(tmp_path, ("gland",))).masks["gland"], DISC == 1)


def test_a_jpeg_mask_of_class_or_instance_values_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", COLOUR)
    save(tmp_path / "masks" / "a.jpg", DISC * 2)
    for labels in ("classes", "instances"):
        assert "is a JPEG, which alters label values" in refused(open_folder(tmp_path, ("gland",), labels))
    assert "below the threshold 128" in refused(open_folder(tmp_path, ("gland",)))


def test_an_all_black_jpeg_mask_is_empty(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", COLOUR)
    save(tmp_path / "masks" / "a.jpg", DISC * 0)
    assert not only(open_folder(tmp_path, ("gland",))).masks["gland"].any()


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_a_colour_mask_is_refused_with_the_reason(tmp_path: Path, extension: str) -> None:
    save(tmp_path / "images" / "a.png", COLOUR)
    save(tmp_path / "masks" / f"a.{extension}", np.stack([DISC * 255, DISC * 0, DISC * 0], 2))
    assert "its red, green and blue differ" in refused(open_folder(tmp_path, ("gland",)))


def test_grey_saved_as_colour_is_read_as_grey(tmp_path: Path) -> None:
    grey = DISC[:, :, None] * 2
    opaque, glass = (np.full((H, W, 1), alpha, dtype=np.uint8) for alpha in (255, 100))
    pair(tmp_path, "rgb", mask=np.repeat(grey, 3, 2))
    pair(tmp_path, "rgba", mask=np.concatenate([np.repeat(grey, 3, 2), opaque], 2))
    pair(tmp_path, "la", mask=np.concatenate([grey, opaque], 2))
    reader = open_folder(tmp_path, ("gland", "tumour"), "classes")
    for record in reader.records():
        np.testing.assert_array_equal(reader.read(record).masks["tumour"], DISC == 1)
    pair(tmp_path, "rgba", mask=np.concatenate([np.repeat(grey, 3, 2), glass], 2))
    assert "partly transparent" in refused(open_folder(tmp_path, ("gland", "tumour"), "classes"))


def test_a_16_bit_colour_mask_is_refused_rather_than_cut_to_8_bits(tmp_path: Path) -> None:
    pair(tmp_path)
    png_16_bit_colour(tmp_path / "masks" / "a.png", np.repeat(DISC[:, :, None].astype(np.uint16), 3, 2))
    assert "several 16-bit channels" in refused(open_folder(tmp_path, ("gland",)))


def test_a_floating_point_mask_is_refused(tmp_path: Path) -> None:
    pair(tmp_path)
    (tmp_path / "masks" / "a.png").unlink()
    tifffile.imwrite(tmp_path / "masks" / "a.tif", DISC.astype(np.float32))
    assert "mode F, no label values" in refused(open_folder(tmp_path, ("gland",)))


def test_palette_masks_are_read_by_index_where_entry_0_is_black(tmp_path: Path) -> None:
    pair(tmp_path)
    image = Image.fromarray(DISC * 2)
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "masks" / "a.png")
    sample = only(open_folder(tmp_path, ("gland", "tumour"), "classes"))
    np.testing.assert_array_equal(sample.masks["tumour"], DISC == 1)
    image.putpalette([255, 255, 255, 255, 0, 0, 0, 0, 0])
    image.save(tmp_path / "masks" / "a.png")
    assert "entry 0 is not opaque black" in refused(open_folder(tmp_path, ("gland", "tumour"), "classes"))


# Options


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"classes": ()}, "must be a list of different names"),
        ({"classes": ("a", "b")}, "describe a single class"),
        ({"classes": ("a", "b"), "labels": "instances"}, "describe a single class"),
        ({"classes": ("a", "a"), "labels": "classes"}, "must be a list of different names"),
        ({"classes": ("a",), "patient": "("}, "is not a regular one"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(tmp_path: Path, options: dict, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        open_folder(tmp_path, **options)


# Real data


@pytest.mark.skipif("CASAM_REAL_DATA" not in os.environ, reason="CASAM_REAL_DATA names no folder that holds nuclei/")
@pytest.mark.parametrize("site", ["fluorescence-256", "tissue-360", "histology-purple", "brightfield-1024"])
def test_every_image_of_the_real_nuclei_sites_reads_with_all_its_instances(site: str) -> None:
    root = Path(os.environ["CASAM_REAL_DATA"]) / "nuclei" / site
    reader = open_folder(root, ("nucleus",), "instances")
    records = reader.records()
    assert len(records) == len(list(root.glob("*/images/*.png"))) > 0
    for record in split_records(records):
        sample = reader.read(record)
        with Image.open(root / str(record.split) / "masks" / f"{record.id.split('/')[1]}.png") as mask:
            values = np.asarray(mask)
        assert sample.image.shape == (*values.shape, 3)
        assert np.unique(sample.instances["nucleus"]).size == np.unique(values).size
        np.testing.assert_array_equal(sample.masks["nucleus"], values > 0)
