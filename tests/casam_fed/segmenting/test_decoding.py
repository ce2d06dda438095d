"""Files from anywhere are decoded in a process of their own, and whatever is wrong with one costs one sentence."""

import os
import random
import signal
import threading
import time

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from casam_fed.errors import DataError
from casam_fed.segmenting.case import read_case
from casam_fed.segmenting.decoding import Decoder

from .conftest import AFFINE


@pytest.fixture(scope="module")
def decoder():
    with Decoder(seconds=60) as process:
        yield process


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One good file of each format."""
    folder = tmp_path_factory.mktemp("formats")
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    deep = rng.integers(0, 65536, (40, 50), dtype=np.uint16)
    voxels = rng.integers(-1000, 1000, (12, 10, 8), dtype=np.int16)
    made = {name: folder / f"good.{name}" for name in ("png", "jpg", "tif", "deep.tif", "nii", "nii.gz", "mha", "nrrd")}
    for name in ("png", "jpg", "tif"):
        Image.fromarray(colour).save(made[name])
    Image.fromarray(deep).save(made["deep.tif"])
    for name in ("nii", "nii.gz"):
        nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), made[name])
    image = SimpleITK.GetImageFromArray(voxels.T)
    image.SetSpacing((1.0, 1.0, 2.5))
    for name in ("mha", "nrrd"):
        SimpleITK.WriteImage(image, str(made[name]))
    return made


@pytest.mark.parametrize("name", ["png", "jpg", "tif", "deep.tif", "nii", "nii.gz", "mha", "nrrd"])
def test_what_comes_from_the_process_is_what_reading_gives(decoder, files, name):
    here, there = read_case(files[name]), decoder.read(files[name])
    assert there.notes == here.notes
    assert there.shape == here.shape
    assert there.grid == here.grid
    if here.volume is None:
        assert np.array_equal(there.picture, here.picture)
        return
    assert np.array_equal(there.volume.planes, here.volume.planes)
    for name in ("spacing", "source_axes", "flipped"):
        assert getattr(there.volume, name) == getattr(here.volume, name)
    assert np.array_equal(there.volume.affine, here.volume.affine)
    assert np.array_equal(there.to_file(there.volume.planes), here.to_file(here.volume.planes))


def _altered(content, chance):
    """Cut a file, or write over a part of it, mostly its beginning, where what describes it stands."""
    data = bytearray(content)
    kind = chance.choice(["cut", "cut", "bytes", "zeros", "noise"])
    if kind == "cut":
        return bytes(data[: chance.randrange(len(data))])
    at = chance.randrange(min(len(data), chance.choice([20, 120, 400, len(data)])))
    length = {"bytes": 1, "zeros": 16, "noise": 16}[kind]
    data[at : at + length] = bytes(length) if kind == "zeros" else bytes(chance.randrange(256) for _ in range(length))
    return bytes(data)


@pytest.mark.parametrize("name", ["png", "jpg", "tif", "deep.tif", "nii", "nii.gz", "mha", "nrrd"])
def test_a_file_that_was_cut_or_altered_is_read_or_costs_one_sentence(decoder, files, tmp_path, name):
    chance, content = random.Random(name), files[name].read_bytes()
    refused = {}
    for number in range(40):
        path = tmp_path / f"{number}.{name}"
        path.write_bytes(_altered(content, chance))
        try:
            decoder.read(path)
        except DataError as error:
            refused[path] = str(error)
    assert all(str(path) in sentence and "\n" not in sentence for path, sentence in refused.items())
    assert len(refused) > 15
    assert decoder.read(files[name]).shape == read_case(files[name]).shape


def test_a_process_that_dies_costs_its_file_and_the_next_is_read(files, tmp_path):
    with Decoder(seconds=60) as decoder:
        decoder.read(files["png"])
        process = decoder.start()

        def kill():
            time.sleep(0.3)
            process.send_signal(signal.SIGKILL)

        os.kill(process.pid, signal.SIGSTOP)
        threading.Thread(target=kill).start()
        with pytest.raises(DataError, match=r"ended the process that decoded it \(SIGKILL\); it is damaged"):
            decoder.read(files["jpg"])
        assert decoder.read(files["jpg"]).shape == (1, 40, 50)


def test_what_lies_in_the_working_folder_is_no_module(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("json", "numpy", "PIL", "casam_fed"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working folder')")
    with Decoder(seconds=60) as decoder:
        assert decoder.read(files["png"]).shape == (1, 40, 50)


def test_what_takes_too_long_is_ended(files):
    with Decoder(seconds=1.0) as decoder:
        process = decoder.start()
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(DataError, match="was not decoded within 1 s"):
            decoder.read(files["png"])
        assert process.poll() is not None


def test_what_needs_too_much_memory_is_refused(tmp_path):
    path = tmp_path / "large.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((512, 512, 600), dtype=np.int16), AFFINE), path)
    with Decoder(seconds=60, memory=700 << 20) as decoder:
        with pytest.raises(DataError) as caught:
            decoder.read(path)
        assert "\n" not in str(caught.value)
        assert "memory" in str(caught.value) or "ended the process" in str(caught.value)
