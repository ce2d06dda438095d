"""The nine datasets of the paper's stream (CA-SAM, arXiv 2511.17201) as phantoms, each in its owner's own format.

With them everything that reads, streams and trains can be tried out before any owner's terms are signed. The folders are
those of configs/streams/nine.yaml; the layouts are documented with the readers in casam_fed/data/formats.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from casam_fed.drawn import nine_pictures, nine_volumes
from casam_fed.drawn.nine_files import Amount, Written, make_folder
from casam_fed.errors import ConfigError, StorageError
from casam_fed.host.files import reason_of

__all__ = ["SIZES", "write_nine"]

_SMALL: Final = {
    "acdc": Amount(16, 6, 2),
    "ebhi_seg": Amount(26, 0, 3),
    "kpis_56nx": Amount(16, 6, 4),
    "kpis_dn": Amount(16, 6, 4),
    "polyp": Amount(76, 0, 1),
    "msd_prostate": Amount(20, 0, 4),
    "msd_spleen": Amount(20, 0, 4),
    "promise12": Amount(20, 0, 4),
    "sts_2d": Amount(76, 0, 1),
}

SIZES: Final = {
    "small": _SMALL,
    "medium": {
        name: Amount(4 * amount.train, 4 * amount.test, amount.each, 2048 if name.startswith("kpis") else 0)
        for name, amount in _SMALL.items()
    },
}
"""How much of each dataset is drawn, by the name of the size."""

_WRITERS: Final[dict[str, Callable[[Path, Amount, int], Written]]] = {
    "acdc": nine_volumes.write_acdc,
    "ebhi_seg": nine_pictures.write_ebhi_seg,
    "kpis_56nx": nine_pictures.write_kpis_56nx,
    "kpis_dn": nine_pictures.write_kpis_dn,
    "polyp": nine_pictures.write_polyp,
    "msd_prostate": nine_volumes.write_msd_prostate,
    "msd_spleen": nine_volumes.write_msd_spleen,
    "promise12": nine_volumes.write_promise12,
    "sts_2d": nine_pictures.write_sts_2d,
}

_README: Final = """Nine drawn datasets of casam-fed, size {size}, seed {seed}.

Every image here was drawn by a computer program (casam data phantom nine). None was taken from a patient: names,
numbers and findings are made up, and scores on these images are no clinical evidence. Only the layout of the folders
and files is that of the owners of ACDC, EBHI-SEG, KPIs 2024, Kvasir-SEG, the Medical Segmentation Decathlon, PROMISE12
and STS-2D, whose data these are not.
"""


def write_nine(out: Path, size: str, seed: int, say: Callable[[str], None]) -> None:
    """Draw all nine datasets into the folder `out`, which appears when it is complete.

    The same size and seed give the same bytes, file by file.

    Args:
        out: a folder that is not there yet, or empty.
        size: one of `SIZES`.
        seed: 0 or more; another seed is other patients.
        say: is told one line for each dataset.

    Raises:
        ConfigError: the size is unknown, or `out` is there and not an empty folder.
        StorageError: the disk is full or the folder cannot be written; nothing of it stays.
    """
    if size not in SIZES:
        raise ConfigError(f"unknown size {size!r} of the drawn datasets; choose {' or '.join(SIZES)}")
    out = out.absolute()
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(
                f"{out} is not empty; give a new folder, so that nothing in it is mixed with drawn images"
            )
        parent = make_folder(out.parent)
        # A sibling, so that the last step is one rename on the same disk.
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{out.name}.", suffix=".part") as hidden:
            drawn = make_folder(hidden, "nine")
            _write_all(drawn, size, seed, say)
            if out.exists():
                out.rmdir()
            drawn.rename(out)
    except OSError as error:
        reason = reason_of(error)
        raise StorageError(
            f"cannot write {out}: {reason}; free space or choose a folder that can be written, then run again"
        ) from error


def _write_all(folder: Path, size: str, seed: int, say: Callable[[str], None]) -> None:
    (folder / "README.txt").write_bytes(_README.format(size=size, seed=seed).encode())
    for name, amount in SIZES[size].items():
        written = _WRITERS[name](folder / name, amount, seed)
        say(f"{name:13} {written.patients:3} patients, {written.images:4} images")
