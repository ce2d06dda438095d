"""A look at a whole dataset before anything is trained on it: counts, sizes, intensities, and problems file by file."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from casam_fed.data.pairing import PairingError
from casam_fed.data.sample import Reader, Record, Sample
from casam_fed.errors import DataError
from casam_fed.host.files import sha256_bytes

__all__ = ["CheckReport", "Problem", "as_text", "check_dataset"]

_SHOWN = 20


@dataclass(frozen=True)
class Problem:
    """Something wrong: `kind` for counting, `where` the image or file, and a sentence with cause and mend."""

    kind: str
    where: str
    sentence: str


@dataclass
class CheckReport:
    """What was found.

    Attributes:
        images, patients: how many; an image that cannot be read counts too.
        splits: split fixed by the owner ("train", "test", or "none") -> number of images.
        classes: class name -> number of images with foreground of it.
        sizes: (height, width) in pixels -> number of images.
        intensity: least and greatest uint8 value, and the mean over the images of their means; None without an image.
        problems: everything that is wrong.
        notes: what the reader had to alter or leave out.
    """

    images: int = 0
    patients: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    intensity: tuple[int, int, float] | None = None
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_dataset(
    reader: Reader,
    progress: Callable[[int, int], None] = lambda done, total: None,
    look: Callable[[Sample], None] = lambda sample: None,
) -> CheckReport:
    """Read every image once and report; one sample is held at a time.

    Args:
        reader: of the dataset.
        progress: told how many images are done, of how many.
        look: is shown every readable sample.
    """
    report = CheckReport(classes=dict.fromkeys(reader.classes, 0))
    try:
        records = reader.records()
    except PairingError as error:
        report.problems += [Problem("missing pair", "-", sentence) for sentence in error.sentences]
        return report
    except DataError as error:
        report.problems.append(Problem("listing", "-", str(error)))
        return report
    report.images, report.patients = len(records), len({record.patient for record in records})
    report.splits = dict(Counter(record.split or "none" for record in records))
    report.problems += _on_both_sides(records)
    seen: dict[str, str] = {}
    low, high, means = 255, 0, []
    for number, record in enumerate(records, start=1):
        try:
            sample = reader.read(record)
        except DataError as error:
            report.problems.append(Problem("unreadable", record.id, str(error)))
            continue
        finally:
            progress(number, len(records))
        height, width = sample.image.shape[:2]
        report.sizes[height, width] = report.sizes.get((height, width), 0) + 1
        low, high = min(low, int(sample.image.min())), max(high, int(sample.image.max()))
        means.append(float(sample.image.mean()))
        for name, mask in sample.masks.items():
            report.classes[name] += bool(mask.any())
        report.problems += _of_sample(sample, seen)
        look(sample)
    report.intensity = (low, high, sum(means) / len(means)) if means else None
    report.notes = list(reader.notes)
    return report


def as_text(report: CheckReport, sheets: object | None) -> str:
    """Return a report in lines for a person, the first problems with their sentences; `sheets` tells of the overlays."""
    sizes = sorted(report.sizes.items(), key=lambda item: -item[1])
    rows = [
        ("images", str(report.images)),
        ("patients", str(report.patients)),
        ("split by the owner", ", ".join(f"{split} {count}" for split, count in sorted(report.splits.items()))),
        *((f"with {name}", str(count)) for name, count in report.classes.items()),
        ("sizes (height x width)", ", ".join(f"{h} x {w}: {count}" for (h, w), count in sizes[:5])),
    ]
    if len(sizes) > 5:
        rows.append(("", f"and {len(sizes) - 5} other sizes"))
    if report.intensity:
        low, high, mean = report.intensity
        rows.append(("intensity", f"{low} to {high}, mean {mean:.1f}"))
    if sheets:
        rows.append(("overlays", str(sheets)))
    lines = [f"{name:24} {value}" for name, value in rows]
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"{problem.kind}: {problem.sentence}" for problem in report.problems[:_SHOWN]]
    if len(report.problems) > _SHOWN:
        lines.append(f"and {len(report.problems) - _SHOWN} more problems; --json lists them all")
    lines.append("nothing is wrong" if not report.problems else f"{len(report.problems)} problems")
    return "\n".join(lines)


def _of_sample(sample: Sample, seen: dict[str, str]) -> Iterable[Problem]:
    if not any(mask.any() for mask in sample.masks.values()):
        yield Problem("empty mask", sample.id, f"{sample.id} has an empty mask; annotate it, or take it out")
    pixels = sha256_bytes(repr(sample.image.shape).encode() + sample.image.tobytes())
    twin = seen.setdefault(pixels, sample.id)
    if twin != sample.id:
        yield Problem("duplicate", sample.id, f"{sample.id} shows the very pixels of {twin}; remove one of them")


def _on_both_sides(records: Iterable[Record]) -> Iterable[Problem]:
    sides: dict[str, dict[str, str]] = {}
    for record in records:
        if record.split is not None:
            sides.setdefault(record.patient, {}).setdefault(record.split, record.id)
    for patient, found in sorted(sides.items()):
        if len(found) > 1:
            ids = " and ".join(f"{split} ({example})" for split, example in sorted(found.items()))
            yield Problem("leak", patient, f"patient {patient} has images in {ids}; move them all to one side")
