"""A look at a dataset as a person reads it: the report in lines, and contact sheets of every image."""

from pathlib import Path

from casam_fed.data.check import CheckReport
from casam_fed.data.contact_sheet import ContactSheets
from casam_fed.data.sample import Sample
from casam_fed.host.files import write_atomically

__all__ = ["CheckSheets", "as_text"]

_SHOWN = 20


class CheckSheets:
    """Writes contact sheets as they fill up."""

    def __init__(self, folder: Path) -> None:
        """Write into `folder`, which is made when the first sheet is full."""
        self._folder, self._pages, self._count = folder, ContactSheets(), 0

    def add(self, sample: Sample) -> None:
        """Put one sample on the sheet."""
        self._write(self._pages.add(sample))

    def close(self) -> None:
        """Write the last sheet."""
        self._write(self._pages.flush())

    def __str__(self) -> str:
        """Say what was written."""
        return f"{self._count} contact sheets in {self._folder}"

    def _write(self, page: bytes | None) -> None:
        if page is not None:
            self._count += 1
            write_atomically(self._folder / f"sheet-{self._count:03d}.png", page)


def as_text(report: CheckReport, sheets: CheckSheets | None) -> str:
    """Return a report in lines, the first problems with their sentences."""
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
