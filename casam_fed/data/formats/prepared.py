"""The layout in which the authors of CA-SAM keep prepared datasets: dataset.json, images, and masks as sparse matrices.

dataset.json lists, under "training" and "test", an image and a label each. A label is what scipy.sparse.save_npz writes, a
2-D matrix whose elements, in C order, are those of an array [K, H, W, 1] of K binary masks; that shape stands in its name,
"NAME.(K, H, W, 1).npz". IMIS-Bench (Cheng et al. 2025) uses the same layout. Labels come from outside: the sizes that they
announce are checked before anything is unpacked, and nothing in them is ever unpickled.
"""

import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator

from casam_fed.data.flat_images import Annotation, FlatReader, Listing, Pair
from casam_fed.data.layout import PatientNames, read_json, require_folder
from casam_fed.data.public import DatasetCard, PublicDataset
from casam_fed.data.sample import Record
from casam_fed.errors import ConfigError, DataError

__all__ = ["MAX_LABEL_FILE_BYTES", "MAX_UNPACKED_BYTES", "PREPARED", "open_prepared"]

MAX_UNPACKED_BYTES: Final = 2**29
"""Limit of the members of a label file together, as the file announces them, and of K*H*W; the masks take as much."""

MAX_LABEL_FILE_BYTES: Final = 2**26
"""Limit of a label file on disk; it also keeps the table of contents small."""

_MAX_CLASSES: Final = 1000
_DENSE_SHAPE: Final = re.compile(r"\.\((\d{1,9}), ?(\d{1,9}), ?(\d{1,9})(?:, ?1)?\)\.npz$")
_MEMBERS: Final = frozenset({"format", "shape", "data", "indices", "indptr", "row", "col", "coords", "_is_array"})
_COMPRESSIONS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_INDICES: Final = {"csr": ("indptr", "indices"), "csc": ("indptr", "indices"), "coo": ("row", "col")}
_OUTER: Final = {"csr": 0, "csc": 1}

Array = npt.NDArray[Any]


def _as_pair(entry: object) -> object:
    return (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else entry


_Entries = list[Annotated[tuple[str, str], BeforeValidator(_as_pair)]]


class _Description(BaseModel):
    """dataset.json: an image and a label in every entry, and perhaps the names of the masks."""

    training: _Entries = []
    test: _Entries = []
    labels: Any = None


def open_prepared(root: Path, classes: Sequence[str] = (), patient: str | None = None) -> FlatReader:
    """Return a reader of a folder with dataset.json; ids are the path of the image in it, without the extension.

    The owner's split is kept, unless one of the two lists is empty, which `notes` says. Paths in dataset.json start at the
    folder and stay in it.

    Args:
        root: the folder that holds dataset.json.
        classes: names of the K masks in order. Empty: those under "labels" in dataset.json, which are {"0": "background",
            "1": NAME, ...} or a list of names without the background; without "labels" they are "class 1" to "class K".
        patient: regular expression searched in the name of the image without its extension; its first group, or else the
            whole match, is the patient. None: every image is its own patient.

    Raises:
        ConfigError: `classes` or `patient` is unusable.
        DataError: dataset.json is missing, or does not say what it must.
    """
    patients = PatientNames(patient)
    require_folder(root)
    path = root / "dataset.json"
    described = read_json(path, _Description)
    listed = {split: entries for split, entries in (("train", described.training), ("test", described.test)) if entries}
    if not listed:
        raise DataError(f'{path} lists no image under "training" or "test"; give the folder of a prepared dataset')
    if len(set(classes)) < len(classes):
        raise ConfigError(f"classes must be a list of different names, not {classes!r}; write one name per mask")
    names = tuple(classes) or _named(described.labels, next(iter(listed.values()))[0][1], path)
    return FlatReader(root, names, partial(_listing, root, names, patients, listed), partial(_read_mask, names))


PREPARED: Final = PublicDataset(
    DatasetCard(
        name="prepared",
        title="Any dataset as the CA-SAM authors prepared it",
        modality="any",
        classes=(),
        layout="dataset.json (training, test), images, NAME.(K, H, W, 1).npz",
        where="made by their scripts",
        licence="that of the dataset",
    ),
    lambda folder, options: open_prepared(folder, options.classes, options.patient),
    options=("classes", "patient"),
)


def _listing(root: Path, classes: tuple[str, ...], patients: PatientNames, listed: Mapping[str, _Entries]) -> Listing:
    """Return the pairs of the lists of both sides, or of one alone."""
    pairs: list[Pair] = []
    for split, entries in listed.items():
        for image_text, label_text in entries:
            image, label = _inside(root, image_text), _inside(root, label_text)
            if (planes := _dense_shape(label)[0]) != len(classes):
                raise DataError(
                    f"label {label} holds {planes} masks where there are {len(classes)} classes; name one class per mask, "
                    "in their order"
                )
            record_id = PurePosixPath(image_text).with_suffix("").as_posix()
            patient = patients.find(image.stem, image, record_id)
            pairs.append(Pair(Record(record_id, patient, split if len(listed) > 1 else None), image, label))
    side = "training" if "train" in listed else "test"
    return Listing(pairs, [f"Only {side!r} lists images: no split is fixed."] if len(listed) == 1 else [])


def _named(labels: Any, first: str, path: Path) -> tuple[str, ...]:
    """Return the names of the masks as dataset.json has them; without any they are numbered as in the label `first`."""
    if labels is None:
        return tuple(f"class {number}" for number in range(1, _dense_shape(path.parent / first)[0] + 1))
    if isinstance(labels, dict):
        numbered: dict[str, Any] = {
            str(number): labels.get(str(number)) for number in range(len(labels) + ("0" not in labels))
        }
        background = numbered.pop("0")
        names: Any = list(numbered.values())
        sound = background is None or str(background).lower() == "background"
    else:
        names, sound = labels, isinstance(labels, list)
    if not (sound and names and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)):
        raise DataError(
            f'"labels" in {path} are not understood; write {{"0": "background", "1": NAME, ...}} with a different name for '
            "every mask, or give the classes yourself"
        )
    return tuple(names)


def _inside(root: Path, text: str) -> Path:
    """Return the file that dataset.json calls `text`, which must lie in `root` even after following links."""
    try:
        path = root / text
        leaves = ".." in path.parts[len(root.parts) :] or not path.resolve().is_relative_to(root.resolve())
        if PureWindowsPath(text).drive or "\\" in text:
            problem = f"a path of Windows; write it with / and relative to {root}"
        elif text.startswith("/"):
            problem = f"an absolute path; {_cut(root, PurePosixPath(text).parts)}"
        elif leaves:
            problem = f"which leads out of {root}; copy the file into the folder"
        elif not path.is_file():
            problem = f"which is not in {root}; add the file or remove the entry"
        else:
            return path
    except (OSError, ValueError, RuntimeError) as error:
        problem = f"which is no path ({error}); correct the entry"
    raise DataError(f"{root / 'dataset.json'} names {text!r}, {problem}")


def _cut(root: Path, parts: tuple[str, ...]) -> str:
    for start in range(1, len(parts)):
        if ".." not in parts and root.joinpath(*parts[start:]).is_file():
            return f"cut '{PurePosixPath(*parts[:start])}/' off every path in it, so that they start at {root}"
    return f"write all paths in it relative to {root}"


# Labels


def _dense_shape(path: Path) -> tuple[int, int, int]:
    match = _DENSE_SHAPE.search(path.name)
    planes, height, width = (int(number) for number in match.groups()) if match else (0, 0, 0)
    if match is None:
        problem = "does not end in its shape; call it like 'NAME.(K, H, W, 1).npz'"
    elif not (1 <= planes <= _MAX_CLASSES and 1 <= planes * height * width <= MAX_UNPACKED_BYTES):
        problem = (
            f"tells a shape that is empty or too large; at most {_MAX_CLASSES} masks and {MAX_UNPACKED_BYTES:,} elements "
            "are read"
        )
    else:
        return planes, height, width
    raise DataError(f"the name of label {path} {problem}")


def _read_mask(classes: tuple[str, ...], path: Path, facts: Counter[str]) -> Annotation:
    return Annotation(dict(zip(classes, _read_planes(path), strict=True)))


def _read_planes(path: Path) -> npt.NDArray[np.bool_]:
    """Return the masks of a label, bool [K, H, W]."""
    shape = _dense_shape(path)
    planes = np.zeros(prod(shape), dtype=np.bool_)
    try:
        problem = _unsafe(path)
        matrix = {} if problem else _unpacked(path)
        problem = problem or _contradiction(matrix, prod(shape))
        if problem is None:
            elements = _set_elements(matrix)
            planes[elements] = True
            if np.count_nonzero(planes) == elements.size:
                return planes.reshape(shape)
            problem = "it lists an element twice"
    except Exception as error:  # zipfile, zlib and numpy raise a dozen unrelated types on damaged or hostile files.
        problem = str(error)
    raise DataError(
        f"label {path} cannot be read as a sparse matrix of binary masks ({problem}); save it again with "
        "scipy.sparse.save_npz as csr, csc or coo"
    )


def _unsafe(path: Path) -> str | None:
    """Return why a label file is not unpacked: too much in it, or what scipy does not write."""
    if path.stat().st_size > MAX_LABEL_FILE_BYTES:
        return f"it is larger than {MAX_LABEL_FILE_BYTES:,} bytes"
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = {member.filename.removesuffix(".npy") for member in members}
        if strangers := sorted(names - _MEMBERS):
            return f"it holds {strangers[0]!r}, which is no part of a csr, csc or coo matrix"
        if len(names) != len(members):
            return "it holds a member twice"
        if any(member.compress_type not in _COMPRESSIONS for member in members):
            return "it is compressed in a way that numpy does not use"
        announced = sum(member.file_size for member in members)
        if announced > MAX_UNPACKED_BYTES:
            return f"it would unpack to {announced:,} bytes, more than {MAX_UNPACKED_BYTES:,}"
        # numpy makes room for whatever shape a header claims, before it finds that the content is shorter.
        for member in members:
            with archive.open(member) as file:
                if np.lib.format.read_magic(file) != (1, 0):
                    return f"{member.filename} is not of version 1.0 of the npy format"
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                if dtype.hasobject or prod(shape) * dtype.itemsize != member.file_size - file.tell():
                    return f"{member.filename} has another size than its header says, or holds pickled objects"
    return None


def _unpacked(path: Path) -> Mapping[str, Array]:
    """Return the arrays of a sparse matrix, those of coo_array under the names that coo_matrix has."""
    with np.load(path, allow_pickle=False) as archive:
        members = dict(archive.items())
    if "coords" in members and len(members["coords"]) == 2:
        members["row"], members["col"] = members.pop("coords")
    return members


def _contradiction(matrix: Mapping[str, Array], size: int) -> str | None:
    """Return where the parts of a sparse matrix contradict each other, the `size` in its name, or a binary mask."""
    if missing := sorted({"format", "shape", "data"} - matrix.keys()):
        return f"it has no {missing[0]!r}"
    form = _form(matrix)
    if form not in _INDICES:
        return f"its format is {form!r}"
    if "coords" in matrix:
        return f"its coordinates have {len(matrix['coords'])} dimensions, not 2"
    for name in ("shape", *_INDICES[form]):
        array = matrix.get(name, np.empty(0))
        if array.dtype.kind not in "iu" or array.ndim != 1:
            return f"its {name!r} is missing, or no array of whole numbers"
    shape, data = matrix["shape"], matrix["data"]
    if shape.size != 2 or shape.min() < 0 or int(shape[0]) * int(shape[1]) != size:
        return f"its shape {tuple(shape.tolist())} is not two numbers whose product is the {size:,} of its name"
    if form != "coo":
        pointers, outer = matrix["indptr"], int(shape[_OUTER[form]])
        sound = pointers.size == outer + 1 and pointers[0] == 0 and pointers[-1] == data.size
        if not (sound and (pointers[1:] >= pointers[:-1]).all()):
            return "its indptr do not divide its data into rows or columns"
    places = _places(matrix)
    if data.ndim != 1 or data.dtype.kind not in "biuf" or {place.size for place in places} != {data.size}:
        return "its indices and its data do not fit together"
    if any((place < 0).any() or (place >= length).any() for place, length in zip(places, shape, strict=True)):
        return f"an index is outside its shape {tuple(shape.tolist())}"
    if (values := np.unique(data[data != 0])).tolist() not in ([], [1], [255]):
        return f"it holds the value {values[-1]}, where masks hold 0 and 1, or 0 and 255"
    return None


def _form(matrix: Mapping[str, Array]) -> str:
    name = matrix["format"].item()
    return name.decode("ascii") if isinstance(name, bytes) else str(name)


def _places(matrix: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return row and column of every stored element."""
    form = _form(matrix)
    if form == "coo":
        return matrix["row"], matrix["col"]
    pointers = matrix["indptr"].astype(np.int64)
    outer = np.repeat(np.arange(pointers.size - 1), pointers[1:] - pointers[:-1])
    return (outer, matrix["indices"]) if form == "csr" else (matrix["indices"], outer)


def _set_elements(matrix: Mapping[str, Array]) -> npt.NDArray[np.int64]:
    """Return the positions, in C order, of the elements of a checked matrix that are set."""
    rows, columns = (place.astype(np.int64) for place in _places(matrix))
    elements: npt.NDArray[np.int64] = (rows * int(matrix["shape"][1]) + columns)[matrix["data"] != 0]
    return elements
