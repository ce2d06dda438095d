"""The prepared layout: what scipy writes is read, and what somebody else wrote is not trusted."""

import json
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import sparse

from casam_fed.data import layout
from casam_fed.data.formats import prepared
from casam_fed.data.formats.prepared import open_prepared
from casam_fed.data.sample import Reader, Record
from casam_fed.data.split import split_records
from casam_fed.errors import ConfigError

from ..tiny_images import refused

K, H, W = 2, 24, 32
COLOUR = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
PLANES = np.zeros((K, H, W), dtype=np.uint8)
PLANES[0, 6:18, 8:22] = 1
PLANES[1, 20:, 3:9] = 1
NAME = f"a.({K}, {H}, {W}, 1).npz"
TWO_D = PLANES.reshape(K * H, W)


def save_label(root: Path, matrix: Any, name: str = NAME) -> Path:
    (root / "label").mkdir(parents=True, exist_ok=True)
    sparse.save_npz(root / "label" / name, matrix)
    return root / "label" / name


def describe(root: Path, training: list[object], test: object = (), **others: object) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps({"training": training, "test": test, **others}))
    return root


def dataset(root: Path, matrix: Any = None, name: str = NAME, **others: object) -> Path:
    """Write an image "image/a.png", its label and a dataset.json with both."""
    (root / "image").mkdir(parents=True, exist_ok=True)
    Image.fromarray(COLOUR).save(root / "image" / "a.png")
    save_label(root, sparse.csr_matrix(TWO_D) if matrix is None else matrix, name)
    return describe(root, [{"image": "image/a.png", "label": f"label/{name}"}], **others)


def read_all(reader: Reader) -> None:
    for record in reader.records():
        reader.read(record)


def read_only(reader: Reader) -> np.ndarray:
    (record,) = reader.records()
    sample = reader.read(record)
    assert (sample.image == COLOUR).all()
    assert tuple(sample.masks) == reader.classes
    return np.stack([sample.masks[name] for name in reader.classes])


# Labels as scipy writes them


@pytest.mark.parametrize("shape", [(K * H, W), (K, H * W), (1, K * H * W), (K * H * W, 1), (H, K * W)])
@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "coo_matrix", "csr_array", "coo_array"])
def test_every_form_that_scipy_saves_is_read_in_c_order(tmp_path: Path, shape: tuple[int, int], form: str) -> None:
    root = dataset(tmp_path, getattr(sparse, form)(PLANES.reshape(shape)))
    assert (read_only(open_prepared(root)) == (PLANES > 0)).all()


@pytest.mark.parametrize("name", [f"a.b.({K}, {H}, {W}, 1).npz", f"a.({K},{H},{W}).npz", f"x.(1).({K}, {H}, {W}).npz"])
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float32])
def test_every_type_and_way_of_writing_the_shape_is_read(tmp_path: Path, name: str, dtype: type) -> None:
    assert (read_only(open_prepared(dataset(tmp_path, sparse.csr_matrix(TWO_D.astype(dtype)), name))) == PLANES).all()


def test_255_is_foreground_and_stored_zeros_are_background(tmp_path: Path) -> None:
    matrix = sparse.coo_matrix(TWO_D * np.uint8(255))
    expected = PLANES > 0
    expected[0, matrix.row[0], matrix.col[0]] = False
    matrix.data[0] = 0
    assert (read_only(open_prepared(dataset(tmp_path, matrix))) == expected).all()


def test_an_empty_label_is_kept_and_counted(tmp_path: Path) -> None:
    reader = open_prepared(dataset(tmp_path, sparse.csr_matrix(TWO_D * 0)))
    assert not read_only(reader).any()
    assert reader.notes[-1] == "Empty masks: 1 of 1 read so far; they are kept, not replaced."


# dataset.json


def test_the_owners_split_and_both_kinds_of_entries_are_kept(tmp_path: Path) -> None:
    dataset(tmp_path)
    Image.fromarray(COLOUR).save(tmp_path / "image" / "b.jpg")
    entry = {"image": "image/a.png", "label": f"label/{NAME}"}
    describe(tmp_path, [["./image/b.jpg", f"label/{NAME}"]], [entry])
    reader = open_prepared(tmp_path)
    assert reader.records() == [Record("image/a", "image/a", "test"), Record("image/b", "image/b", "train")]
    assert split_records(reader.records()) == reader.records()
    assert reader.notes == []


def test_one_list_alone_fixes_no_split(tmp_path: Path) -> None:
    reader = open_prepared(dataset(tmp_path))
    assert reader.records() == [Record("image/a", "image/a", None)]
    assert reader.notes == ["Only 'training' lists images: no split is fixed."]


@pytest.mark.parametrize(
    ("labels", "given", "classes"),
    [
        ({"1": "liver", "0": "background", "2": "spleen"}, (), ("liver", "spleen")),
        ({"1": "liver", "2": "spleen"}, (), ("liver", "spleen")),
        (["liver", "spleen"], (), ("liver", "spleen")),
        (["liver", "spleen"], ("a", "b"), ("a", "b")),
        (None, (), ("class 1", "class 2")),
    ],
)
def test_classes_come_from_the_user_or_the_labels_or_are_numbered(
    tmp_path: Path, labels: object, given: tuple[str, ...], classes: tuple[str, ...]
) -> None:
    reader = open_prepared(dataset(tmp_path, labels=labels), given)
    assert reader.classes == classes
    assert (read_only(reader) == (PLANES > 0)).all()


@pytest.mark.parametrize(
    "labels", [{"0": "liver", "1": "spleen"}, {"1": "a", "3": "b"}, {"background": 0}, ["a", "a"], [], "ab", ["a", 1]]
)
def test_labels_that_are_not_understood_are_refused(tmp_path: Path, labels: object) -> None:
    assert '"labels" in' in refused(lambda: open_prepared(dataset(tmp_path, labels=labels)))


def test_the_patient_is_searched_in_the_name(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    (root / "image" / "a.png").rename(root / "image" / "P07_3.png")
    describe(root, [["image/P07_3.png", f"label/{NAME}"]])
    assert open_prepared(root, patient=r"^(P\d+)_").records()[0].patient == "P07"
    assert open_prepared(root, patient=r"P\d").records()[0].patient == "P0"
    assert "finds no patient in the name 'P07_3'" in refused(lambda: open_prepared(root, patient="Q"))


def test_unusable_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a regular one .*; correct it"):
        open_prepared(dataset(tmp_path), patient="(")
    with pytest.raises(ConfigError, match=r"list of different names, not .*; write one name per mask"):
        open_prepared(tmp_path, ("a", "a"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "wrong at the file (Invalid JSON"),
        ("[" * 100_000, "wrong at the file (Invalid JSON"),
        ("[]", "wrong at the file (Input should be an object)"),
        ("{}", "lists no image"),
        ('{"training": {"a": 1}}', "wrong at training (Input should be a valid array)"),
        ('{"test": [["a", "b"], ["a"]]}', "wrong at test.1"),
        ('{"training": [{"image": "a"}]}', "wrong at training.0"),
        ('{"training": [["a", 3]]}', "wrong at training.0"),
    ],
)
def test_a_dataset_json_that_does_not_say_what_it_must_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    assert said in refused(lambda: open_prepared(tmp_path))


def test_a_missing_or_huge_dataset_json_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "dataset.json is missing" in refused(lambda: open_prepared(tmp_path))
    monkeypatch.setattr(layout, "_MAX_TEXT", 10)
    assert "larger than 10 bytes" in refused(lambda: open_prepared(dataset(tmp_path)))


def test_an_image_listed_twice_is_refused(tmp_path: Path) -> None:
    dataset(tmp_path)
    entry = ["image/a.png", f"label/{NAME}"]
    describe(tmp_path, [entry], [["./image/a.png", entry[1]]])
    assert "are both listed as 'image/a'; rename or remove one" in refused(lambda: open_prepared(tmp_path))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("/home/x/data/image/a.png", "cut '/home/x/data/' off every path in it"),
        ("/home/x/other.png", "an absolute path; write all paths in it relative to"),
        ("C:/data/image/a.png", "a path of Windows"),
        ("image\\a.png", "a path of Windows"),
        ("image/../../a.png", "leads out of"),
        ("image/../image/a.png", "leads out of"),
        ("link.png", "leads out of"),
        ("image/b.png", "is not in"),
        ("image", "is not in"),
        ("", "is not in"),
        ("a\0b.png", "is no path"),
        ("\ud800.png", "Invalid JSON: unexpected end of hex escape"),
        ("a" * 5000, "is no path"),
    ],
)
def test_paths_that_leave_the_folder_or_lead_nowhere_are_refused(tmp_path: Path, image: str, said: str) -> None:
    root = dataset(tmp_path / "data")
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    (root / "link.png").symlink_to(tmp_path / "a.png")
    describe(root, [[image, f"label/{NAME}"]], labels=["a", "b"])
    assert said in refused(lambda: open_prepared(root))
    describe(root, [["image/a.png", image]], labels=["a", "b"])
    assert said in refused(lambda: open_prepared(root)), "labels are held to the same"


# Labels that do not fit


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.npz", "does not end in its shape"),
        ("a.(2, 24).npz", "does not end in its shape"),
        ("a.(2, 24, 32, 3).npz", "does not end in its shape"),
        ("a.(0, 24, 32, 1).npz", "empty or too large"),
        ("a.(2, 0, 32, 1).npz", "empty or too large"),
        ("a.(1001, 1, 1, 1).npz", "empty or too large"),
        ("a.(2, 99999, 99999, 1).npz", "empty or too large"),
        ("a.(2, 32, 24, 1).npz", "image/a.png is 32 x 24 pixels but its mask"),
        ("a.(2, 24, 31, 1).npz", "is not two numbers whose product is the 1,488 of its name"),
        ("a.(1, 48, 32, 1).npz", "holds 1 masks where there are 2 classes"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(tmp_path: Path, name: str, said: str) -> None:
    assert said in refused(lambda: open_prepared(dataset(tmp_path, name=name, labels=["a", "b"])))


@pytest.mark.parametrize("values", [[2], [1, 2], [1, 255], [-1], [0.5], [float("nan")], [float("nan"), 1]])
def test_values_other_than_0_and_1_or_255_are_refused(tmp_path: Path, values: list[float]) -> None:
    plane = np.zeros((K * H, W))
    plane.flat[: len(values)] = values
    assert "where masks hold 0 and 1, or 0 and 255" in refused(
        lambda: open_prepared(dataset(tmp_path, sparse.csr_matrix(plane)))
    )


@pytest.mark.parametrize("form", ["bsr_matrix", "dia_matrix"])
def test_other_sparse_formats_are_refused_with_the_mend(tmp_path: Path, form: str) -> None:
    said = refused(lambda: open_prepared(dataset(tmp_path, getattr(sparse, form)(TWO_D))))
    assert "save it again with scipy.sparse.save_npz as csr, csc or coo" in said


# Labels by somebody who means harm, or after a broken disk


def members(**changes: object) -> dict[str, Any]:
    """The arrays of a sound csr label with two elements set, and some of them exchanged; None leaves one out."""
    indptr = np.zeros(K * H + 1, dtype=np.int32)
    indptr[1:] = 2
    sound = {"format": np.array(b"csr"), "shape": np.array([K * H, W]), "data": np.ones(2, dtype=np.uint8)}
    sound |= {"indices": np.array([3, 5], dtype=np.int32), "indptr": indptr}
    return {name: value for name, value in (sound | changes).items() if value is not None}


def hostile(root: Path, **changes: object) -> open_prepared:
    dataset(root)
    np.savez(root / "label" / NAME, **members(**changes))
    return open_prepared(root)


def pointers(*changes: tuple[int, int]) -> np.ndarray:
    changed = members()["indptr"].astype(np.int64)
    for position, value in changes:
        changed[position] = value
    return changed


def test_the_label_that_the_next_tests_spoil_is_sound(tmp_path: Path) -> None:
    assert np.argwhere(read_only(hostile(tmp_path))).tolist() == [[0, 0, 3], [0, 0, 5]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": None}, "it has no 'format'"),
        ({"data": None}, "it has no 'data'"),
        ({"indices": None}, "its 'indices' is missing"),
        ({"format": np.array("lil")}, "its format is 'lil'"),
        ({"surprise": np.ones(1)}, "it holds 'surprise'"),
        ({"shape": np.array([K * H, W, 1])}, "is not two numbers"),
        ({"shape": np.array([-K * H, -W])}, "is not two numbers"),
        ({"shape": np.array([2.0, 3.0])}, "its 'shape' is missing, or no array of whole numbers"),
        ({"indices": np.array([3, W])}, "an index is outside"),
        ({"indices": np.array([-1, 3])}, "an index is outside"),
        ({"indices": np.array([3, 2**64 - 1], dtype=np.uint64)}, "an index is outside"),
        ({"indices": np.array([3.0, 5.0])}, "no array of whole numbers"),
        ({"indices": np.array([[3], [5]])}, "no array of whole numbers"),
        ({"indices": np.array([3])}, "do not fit together"),
        ({"indices": np.array([3, 3])}, "lists an element twice"),
        ({"data": np.ones((2, 1))}, "do not fit together"),
        ({"data": np.array(["1", "1"])}, "do not fit together"),
        ({"indptr": pointers((0, 1))}, "its indptr do not divide"),
        ({"indptr": pointers((5, 1))}, "its indptr do not divide"),
        ({"indptr": pointers((-1, 1))}, "its indptr do not divide"),
        ({"indptr": pointers((3, 2**62), (4, -(2**62)))}, "its indptr do not divide"),
        ({"indptr": pointers((-1, 2**60))}, "its indptr do not divide"),
        ({"indptr": pointers()[:-1]}, "its indptr do not divide"),
        ({"data": np.array([1, None], dtype=object)}, "pickled objects"),
        ({"format": np.array("coo"), "row": np.array([0, K * H]), "col": np.array([0, 0])}, "an index is outside"),
        ({"format": np.array("coo"), "row": np.array([0, 1]), "col": np.array([0])}, "do not fit together"),
        ({"format": np.array("coo"), "coords": np.zeros((3, 2), dtype=int)}, "have 3 dimensions, not 2"),
        ({"format": np.array("coo"), "coords": np.zeros((9**9, 0), dtype=int)}, "dimensions, not 2"),
    ],
)
def test_a_matrix_that_contradicts_itself_is_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    assert said in refused(lambda: hostile(tmp_path, **changes))


def npy(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.lib.format.write_array(buffer, array)
    return buffer.getvalue()


def archive(root: Path, compression: int = zipfile.ZIP_DEFLATED, **raw: bytes) -> open_prepared:
    """Write the sound label with the bytes of some members exchanged."""
    dataset(root)
    with zipfile.ZipFile(root / "label" / NAME, "w", compression) as file:
        for name, content in ({name: npy(array) for name, array in members().items()} | raw).items():
            file.writestr(f"{name}.npy", content)
    return open_prepared(root)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "MAX_UNPACKED_BYTES", 2**20)
    read: list[object] = []
    monkeypatch.setattr(prepared, "_unpacked", read.append)
    said = refused(lambda: archive(tmp_path, data=bytes(2**20)))
    assert "it would unpack to 1,0" in said
    assert "more than 1,048,576" in said
    assert not read


def test_a_large_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    with (root / "label" / NAME).open("r+b") as file:
        file.truncate(prepared.MAX_LABEL_FILE_BYTES + 1)
    assert "it is larger than 67,108,864 bytes" in refused(lambda: open_prepared(root))


def test_a_header_that_claims_more_than_there_is_is_refused(tmp_path: Path) -> None:
    # The header is padded with spaces, so that a longer number takes no more room.
    content = npy(np.ones(2, dtype=np.uint8)).replace(b"(2,), }           ", b"(999999999999,), }"[:18])
    assert b"(999999999999,)" in content
    for raw in (content, npy(np.ones(2, dtype=np.uint8))[:-1]):
        said = refused(lambda raw=raw: archive(tmp_path, data=raw))
        assert "data.npy has another size than its header says" in said


def test_another_version_of_npy_is_refused(tmp_path: Path) -> None:
    buffer = BytesIO()
    np.lib.format.write_array(buffer, np.ones(2, dtype=np.uint8), version=(2, 0))
    assert "is not of version 1.0" in refused(lambda: archive(tmp_path, data=buffer.getvalue()))


def test_another_compression_is_refused(tmp_path: Path) -> None:
    assert "in a way that numpy does not use" in refused(lambda: archive(tmp_path, zipfile.ZIP_LZMA))


def test_a_member_twice_is_refused(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    with zipfile.ZipFile(root / "label" / NAME, "a") as file:
        file.writestr("data", npy(np.ones(2)))
    assert "it holds a member twice" in refused(lambda: open_prepared(root))


def test_damage_is_refused(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    path = root / "label" / NAME
    np.savez(path, **members())
    sound = path.read_bytes()
    at = sound.index(npy(members()["data"])) + len(npy(members()["data"])) - 1
    for spoilt in (sound[: len(sound) // 2], b"", b"no archive", sound[:at] + b"\0" + sound[at + 1 :]):
        path.write_bytes(spoilt)
        assert f"label {path} cannot be read as a sparse matrix of binary masks" in refused(lambda: open_prepared(root))
