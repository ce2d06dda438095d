"""The layout in which the authors of CA-SAM keep prepared datasets: dataset.json, images, and masks as sparse matrices.

dataset.json lists, under "training" and "test", an image and a label each. A label is what scipy.sparse.save_npz writes, a
2-D matrix whose elements, in C order, are those of an array [K, H, W, 1] of K binary masks; that shape stands in its name,
"NAME.(K, H, W, 1).npz". IMIS-Bench (Cheng et al. 2025) uses the same layout. Labels come from outside: the sizes that they
announce are checked before anything is unpacked, and nothing in them is ever unpickled.
"""

import json
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from casam_fed.data.flat_images import FlatPairs, Listing, Masks, Pair, require_root
from casam_fed.data.sample import Record, Sample
from casam_fed.errors import ConfigError, DataError

__all__ = ["MAX_LABEL_FILE_BYTES", "MAX_UNPACKED_BYTES", "PreparedReader"]

MAX_UNPACKED_BYTES: Final = 2**29
"""Limit of the members of a label file together, as the file announces them, and of K*H*W; the masks take as much."""

MAX_LABEL_FILE_BYTES: Final = 2**26
"""Limit of a label file on disk; it also keeps the table of contents small."""

_MAX_JSON_BYTES: Final = 2**26
_MAX_CLASSES: Final = 1000
_DENSE_SHAPE: Final = re.compile(r"\.\((\d{1,9}), ?(\d{1,9}), ?(\d{1,9})(?:, ?1)?\)\.npz$")
_SPLITS: Final = {"training": "train", "test": "test"}
_MEMBERS: Final = frozenset({"format", "shape", "data", "indices", "indptr", "row", "col", "coords", "_is_array"})
_COMPRESSIONS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_COMPRESSED_AXES: Final = {"csr": (0, 1), "csc": (1, 0)}

Array = npt.NDArray[Any]


class PreparedReader:
    """Reads a folder with dataset.json; ids are the path of the image in it, without the extension.

    The owner's split is kept, unless one of the two lists is empty, which `notes` says. Paths in dataset.json start at the
    folder and stay in it.

    Args:
        root: the folder that holds dataset.json.
        classes: names of the K masks in order. None: those under "labels" in dataset.json, which are {"0": "background",
            "1": NAME, ...} or a list of names without the background; without "labels" they are "class 1" to "class K".
        patient: regular expression searched in the name of the image without its extension; its first group, or else the
            whole match, is the patient. None: every image is its own patient.

    Raises:
        ConfigError: `classes` or `patient` is unusable.
        DataError: dataset.json is missing, or does not say what it must.
    """

    def __init__(self, root: Path, classes: Sequence[str] | None = None, patient: str | None = None) -> None:
        self._root = root
        self._patient = _compiled(patient)
        description = _description(root)
        self._entries = _entries(description, root / "dataset.json")
        self.classes: tuple[str, ...] = _given(classes) or _described(description, self._entries, root / "dataset.json")
        self._flat = FlatPairs(root, self._listing, self._read_masks)
        self.notes: list[str] = self._flat.notes

    def records(self) -> list[Record]:
        """Return all records, sorted by id.

        Raises:
            DataError: a file is missing or outside the folder, an image is listed twice, the number of masks in the name of
                a label is not that of the classes, or a name does not match the patient expression.
        """
        return self._flat.records()

    def read(self, record: Record) -> Sample:
        """Return the sample of `record`.

        Raises:
            DataError: the record is unknown, a file is unreadable or unsafe, or image and masks do not fit together.
        """
        return self._flat.read(record)

    def _listing(self) -> Listing:
        sides = [side for side, entries in self._entries.items() if entries]
        pairs: list[Pair] = []
        for side in sides:
            split = _SPLITS[side] if len(sides) == len(_SPLITS) else None
            for image_text, label_text in self._entries[side]:
                image, label = _inside(self._root, image_text), _inside(self._root, label_text)
                record_id = PurePosixPath(image_text).with_suffix("").as_posix()
                _require_planes(label, len(self.classes))
                pairs.append(Pair(Record(record_id, self._patient_of(record_id, image), split), image, label))
        lonely = [f"Only {sides[0]!r} lists images: no split is fixed."] if len(sides) == 1 else []
        return Listing(pairs, lonely)

    def _patient_of(self, record_id: str, image: Path) -> str:
        if self._patient is None:
            return record_id
        match = self._patient.search(image.stem)
        patient = match and (match.group(1) if self._patient.groups else match.group())
        if not patient:
            raise DataError(
                f"the patient expression {self._patient.pattern!r} finds no patient in the name of {image}; correct the "
                "expression or rename the file"
            )
        return patient

    def _read_masks(self, path: Path, facts: Counter[str]) -> Masks:
        return dict(zip(self.classes, _read_planes(path), strict=True))


def _compiled(patient: str | None) -> re.Pattern[str] | None:
    try:
        return None if patient is None else re.compile(patient)
    except re.error as error:
        raise ConfigError(f"the patient expression {patient!r} is not a regular one ({error}); correct it") from error


# dataset.json


def _description(root: Path) -> dict[str, Any]:
    require_root(root)
    path = root / "dataset.json"
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise DataError(f"{path} is larger than {_MAX_JSON_BYTES:,} bytes; divide the dataset")
        description = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; give the folder of a prepared dataset") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); replace it with an intact copy") from error
    if not isinstance(description, dict):
        raise DataError(f'{path} holds no JSON object; it must have the lists "training" and "test"')
    return description


def _entries(description: dict[str, Any], path: Path) -> dict[str, list[tuple[str, str]]]:
    entries: dict[str, list[tuple[str, str]]] = {}
    for side in _SPLITS:
        listed = description.get(side, [])
        if not isinstance(listed, list):
            raise DataError(f"{path} has no list under {side!r}; list an image and a label in every entry")
        entries[side] = [_entry(item, side, number, path) for number, item in enumerate(listed, start=1)]
    if not any(entries.values()):
        raise DataError(f'{path} lists no image under "training" or "test"; give the folder of a prepared dataset')
    return entries


def _entry(item: object, side: str, number: int, path: Path) -> tuple[str, str]:
    match item:
        case {"image": str(image), "label": str(label)} | [str(image), str(label)]:
            return image, label
    raise DataError(
        f'entry {number} under {side!r} in {path} is no image with a label; write {{"image": PATH, "label": PATH}}'
    )


def _given(classes: Sequence[str] | None) -> tuple[str, ...]:
    if classes is None:
        return ()
    if isinstance(classes, str) or not classes or len(set(classes)) != len(classes):
        raise ConfigError(f"classes must be a list of different names, not {classes!r}; write one name per mask")
    return tuple(classes)


def _described(description: dict[str, Any], entries: dict[str, list[tuple[str, str]]], path: Path) -> tuple[str, ...]:
    labels = description.get("labels")
    if labels is None:
        first = next(label for listed in entries.values() for _, label in listed)
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
    listing = root / "dataset.json"
    if PureWindowsPath(text).drive or "\\" in text:
        raise DataError(f"{listing} names {text!r}, a path of Windows; write it with / and relative to {root}")
    try:
        if text.startswith("/"):
            raise DataError(f"{listing} names {text!r}, an absolute path; {_cut(root, PurePosixPath(text).parts)}")
        path = root / text
        leaves = ".." in path.parts[len(root.parts) :] or not path.resolve().is_relative_to(root.resolve())
        there = not leaves and path.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{listing} names {text!r}, which is no path ({error}); correct the entry") from error
    if leaves:
        raise DataError(f"{listing} names {text!r}, which leads out of {root}; copy the file into the folder")
    if not there:
        raise DataError(f"{listing} names {text!r}, which is not in {root}; add the file or remove the entry")
    return path


def _cut(root: Path, parts: tuple[str, ...]) -> str:
    for start in range(1, len(parts)):
        if ".." not in parts and root.joinpath(*parts[start:]).is_file():
            return f"cut '{PurePosixPath(*parts[:start])}/' off every path in it, so that they start at {root}"
    return f"write all paths in it relative to {root}"


# Labels


def _dense_shape(path: Path) -> tuple[int, int, int]:
    match = _DENSE_SHAPE.search(path.name)
    if match is None:
        raise DataError(f"the name of label {path} does not end in its shape; call it like 'NAME.(K, H, W, 1).npz'")
    planes, height, width = (int(number) for number in match.groups())
    if not (1 <= planes <= _MAX_CLASSES and 1 <= planes * height * width <= MAX_UNPACKED_BYTES):
        raise DataError(
            f"the name of label {path} tells a shape that is empty or too large; at most {_MAX_CLASSES} masks and "
            f"{MAX_UNPACKED_BYTES:,} elements are read"
        )
    return planes, height, width


def _require_planes(path: Path, classes: int) -> None:
    planes = _dense_shape(path)[0]
    if planes != classes:
        raise DataError(
            f"label {path} holds {planes} masks where there are {classes} classes; name one class per mask, in their order"
        )


def _read_planes(path: Path) -> npt.NDArray[np.bool_]:
    """Return the masks of a label, bool [K, H, W]."""
    shape = _dense_shape(path)
    try:
        elements = _set_elements(_members(path), prod(shape))
        planes = np.zeros(prod(shape), dtype=np.bool_)
        planes[elements] = True
        if np.count_nonzero(planes) != elements.size:
            raise ValueError("it lists an element twice")
        return planes.reshape(shape)
    except Exception as error:  # zipfile, zlib and numpy raise a dozen unrelated types on damaged or hostile files.
        raise DataError(
            f"label {path} cannot be read as a sparse matrix of binary masks ({error}); save it again with "
            "scipy.sparse.save_npz as csr, csc or coo"
        ) from error


def _members(path: Path) -> dict[str, Array]:
    if path.stat().st_size > MAX_LABEL_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_LABEL_FILE_BYTES:,} bytes")
    with zipfile.ZipFile(path) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if strangers := sorted(members.keys() - _MEMBERS):
            raise ValueError(f"it holds {strangers[0]!r}, which is no part of a csr, csc or coo matrix")
        if len(members) != len(archive.infolist()):
            raise ValueError("it holds a member twice")
        if any(member.compress_type not in _COMPRESSIONS for member in members.values()):
            raise ValueError("it is compressed in a way that numpy does not use")
        announced = sum(member.file_size for member in members.values())
        if announced > MAX_UNPACKED_BYTES:
            raise ValueError(f"it would unpack to {announced:,} bytes, more than {MAX_UNPACKED_BYTES:,}")
        return {name: _array(archive, member) for name, member in members.items()}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    # numpy makes room for whatever shape the header claims, before it finds that the content is shorter.
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{member.filename} is not of version 1.0 of the npy format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject or prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise ValueError(f"{member.filename} has another size than its header says, or holds pickled objects")
    with archive.open(member) as file:
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
        return array


def _set_elements(members: dict[str, Array], size: int) -> npt.NDArray[np.int64]:
    """Return the positions, in C order, of the elements of a sparse matrix that are set; all of it is checked."""
    if missing := sorted({"format", "shape", "data"} - members.keys()):
        raise ValueError(f"it has no {missing[0]!r}")
    name = members["format"].item()
    name = name.decode("ascii") if isinstance(name, bytes) else name
    shape, data = _integers(members, "shape"), members["data"]
    if shape.size != 2 or shape.min() < 0 or int(shape[0]) * int(shape[1]) != size:
        raise ValueError(
            f"its shape {tuple(shape.tolist())} is not two numbers whose product is the {size:,} of its name"
        )
    if name in _COMPRESSED_AXES:
        outer, inner = _COMPRESSED_AXES[name]
        places = {outer: _unpacked(_integers(members, "indptr"), int(shape[outer]), data.size)}
        places[inner] = _integers(members, "indices")
    elif name == "coo" and "coords" in members:
        coords = _integers(members, "coords", dimensions=2)
        if len(coords) != 2:
            raise ValueError(f"its coordinates have {len(coords)} dimensions, not 2")
        places = {0: coords[0], 1: coords[1]}
    elif name == "coo":
        places = {0: _integers(members, "row"), 1: _integers(members, "col")}
    else:
        raise ValueError(f"its format is {name!r}")
    if data.ndim != 1 or data.dtype.kind not in "biuf" or {place.size for place in places.values()} != {data.size}:
        raise ValueError("its indices and its data do not fit together")
    if data.size and any(places[axis].min() < 0 or places[axis].max() >= shape[axis] for axis in (0, 1)):
        raise ValueError(f"an index is outside its shape {tuple(shape.tolist())}")
    stored = data != 0
    if (values := np.unique(data[stored])).tolist() not in ([], [1], [255]):
        raise ValueError(f"it holds the value {values[-1]}, where masks hold 0 and 1, or 0 and 255")
    elements: npt.NDArray[np.int64] = (places[0] * shape[1] + places[1])[stored]
    return elements


def _integers(members: dict[str, Array], name: str, dimensions: int = 1) -> npt.NDArray[np.int64]:
    array = members.get(name, np.empty(0))
    if array.dtype.kind not in "iu" or array.ndim != dimensions:
        raise ValueError(f"its {name!r} is missing, or no array of whole numbers")
    return array.astype(np.int64)


def _unpacked(pointers: npt.NDArray[np.int64], count: int, stored: int) -> npt.NDArray[np.int64]:
    """Return the row (or column) of every stored element from the pointers of a csr (or csc) matrix."""
    sound = pointers.size == count + 1 and pointers[0] == 0 and pointers[-1] == stored
    if not (sound and (pointers[1:] >= pointers[:-1]).all()):
        raise ValueError("its indptr do not divide its data into rows or columns")
    return np.repeat(np.arange(count), np.diff(pointers))
