"""`casam-audit`: the auditor's command. It needs no network, and nothing but Python and `cryptography`.

Exit codes: 0 verified, or done; 1 something is wrong; 2 something is missing, or the command was not used as it is meant.
"""

import argparse
import io
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from casam_fed import __version__
from casam_fed.errors import CasamError, NewerFormatError
from casam_fed.host.printable import printable

__all__ = ["main", "run"]

_DESCRIPTION = """\
Show, export and verify what a federation has logged: what left a hospital, who let it go, what was decided about it.

An auditor needs an export (a folder), and the public keys of the aggregator and the sites, as PEM, from these themselves.
Nothing is sent anywhere.
"""
_EPILOG = "exit codes: 0 verified, or done; 1 something is wrong; 2 something is missing, or wrong usage"


def main() -> None:
    """Run `casam-audit`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name in an export may hold what this terminal cannot show.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("casam-audit: interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run `casam-audit` with these arguments, and return its exit code; a `CasamError` is told on stderr.

    Raises:
        SystemExit: 2 for wrong usage, 0 after a help text.
    """
    given = _parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except CasamError as error:
        print(f"casam-audit: {printable(str(error))}", file=sys.stderr)
        return _exit_code(error)


def _exit_code(error: CasamError) -> int:
    from casam_fed.audit.check_folder import CheckError, UnsuitableError

    if isinstance(error, CheckError):
        return error.exit_code
    return 2 if isinstance(error, UnsuitableError | NewerFormatError) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "casam-audit", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"casam-audit {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_show, _add_export, _add_verify, _add_diff, _add_entry):
        add(commands)
    return parser


def _command(commands: Any, name: str, help_line: str, more: str, run: Callable[[Any], int]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_line,
        description=f"{help_line}\n\n{more}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_show(commands: Any) -> None:
    parser = _command(
        commands,
        "show",
        "Print a time line: approvals, what left, decisions, and when it was witnessed.",
        "Beside a site's log stands, of the aggregator's, what is about that site. Signatures are not checked: verify\n"
        "does that.\n"
        "example: casam-audit show /srv/clinic",
        _show,
    )
    parser.add_argument(
        "path", type=Path, metavar="PATH", help="home of a site or an aggregator, an export, or a log's folder"
    )
    parser.add_argument("--log", choices=("site", "bank"), default="", help="only this log, and all of it")
    _add_key(parser)
    _add_json(parser)


def _add_export(commands: Any) -> None:
    parser = _command(
        commands,
        "export",
        "Make a folder for an auditor: the logs of a home, and every file that they speak of.",
        "Keys, settings and images are left alone. There is a whole export in the end, or none.\n"
        "example: casam-audit export /srv/clinic clinic-2026-11",
        _export,
    )
    parser.add_argument("home", type=Path, metavar="HOME", help="folder of a site or an aggregator")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make; it must not exist, or be empty")
    _add_key(parser)


def _add_verify(commands: Any) -> None:
    parser = _command(
        commands,
        "verify",
        "Verify an export: nothing changed, left out or added, and both parties agree.",
        "The last line is `verified: ...`, `failed [CODE]: ...` or `incomplete [CODE]: ...`. The verify.sh in every\n"
        "export checks the same with bash, openssl and jq alone.\n"
        "example: casam-audit verify clinic-2026-11 --bank-key aggregator.pem --site-key clinic.pem",
        _verify,
    )
    parser.add_argument("export", type=Path, metavar="EXPORT", help="folder that casam-audit export has made")
    parser.add_argument(
        "--bank-key",
        type=Path,
        metavar="FILE",
        required=True,
        help="the aggregator's public key, PEM, from its operator",
    )
    parser.add_argument(
        "--site-key",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help="a site's public key, PEM, from that site; again for each earlier key of its own, or, for the export of a"
        " bank, for each site with a release in it",
    )
    _add_json(parser)


def _add_diff(commands: Any) -> None:
    parser = _command(
        commands,
        "diff",
        "Compare two exports of one federation: is it one history, or do they contradict?",
        "The aggregator's log is compared, and the site's where both exports are of the same site. Signatures are not\n"
        "checked: verify both exports before.\n"
        "example: casam-audit diff clinic-2026-11 harbour-2026-11",
        _diff,
    )
    parser.add_argument("first", type=Path, metavar="A", help="an export")
    parser.add_argument("second", type=Path, metavar="B", help="another one")
    _add_json(parser)


def _add_entry(commands: Any) -> None:
    parser = _command(
        commands,
        "entry",
        "Explain one entry of a log: bytes, hashes, path to the root, signature, and every field.",
        "example: casam-audit entry clinic-2026-11 5 --log bank",
        _entry,
    )
    parser.add_argument("export", type=Path, metavar="EXPORT", help="folder that casam-audit export has made")
    parser.add_argument("number", type=_number, metavar="N", help="number of the entry, from 0")
    parser.add_argument(
        "--log", choices=("site", "bank"), default="", help="which log (default: the one of whoever the export is of)"
    )
    _add_json(parser)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key",
        type=_fingerprint_start,
        metavar="FP12",
        help="of a site that has changed its keys: the log of the key whose fingerprint begins so (default: the newest)",
    )


def _number(text: str) -> int:
    return int(_matching("[0-9]{1,18}", text, "a number from 0, as in: casam-audit entry clinic-2026-11 5"))


def _fingerprint_start(text: str) -> str:
    """Return the digits by which a log's folder is named, of a fingerprint as people read it out."""
    digits = "".join(text.split()).lower()
    return _matching("[0-9a-f]{12,64}", digits, "at least the first 12 digits of a key's fingerprint")[:12]


def _matching(form: str, text: str, what: str) -> str:
    if not re.fullmatch(form, text):
        raise argparse.ArgumentTypeError(f"give {what}")
    return text


def _say(text: str) -> None:
    print(printable(text))


def _show(given: Any) -> int:
    from casam_fed.audit.show import line_of, time_line

    items = time_line(given.path, given.log, given.key or "")
    if given.json:
        # A log may be long: it is written as it is read.
        separator = ""
        print("[", end="")
        for item in items:
            print(separator + json.dumps(item.plain()), end="")
            separator = ",\n "
        print("]")
        return 0
    for item in items:
        _say(line_of(item))
    return 0


def _export(given: Any) -> int:
    from casam_fed.audit.export import export

    made = export(given.home, given.out, given.key or "")
    whose = f"site {made.manifest.site} in" if made.manifest.kind == "site" else "the bank of"
    entries = " and ".join(f"{count:,} entries of the {kind} log" for kind, count in made.entries.items())
    _say(f"{given.out}: export of {whose} federation {made.manifest.federation}, {entries}, {made.files:,} files")
    for gap in made.gaps:
        _say(f"not in it: {gap}")
    return 2 if made.gaps else 0


def _verify(given: Any) -> int:
    from casam_fed.audit.verify import verify

    report = verify(given.export, given.bank_key, given.site_key)
    if given.json:
        print(json.dumps(report.plain()))
        return report.exit_code
    for note in report.notes:
        _say(f"note: {note}")
    for line in report.lines:
        _say(f"verified: {line}")
    if report.code:
        _say(f"{report.result} [{report.code}]: {report.sentence}")
    return report.exit_code


def _diff(given: Any) -> int:
    from casam_fed.audit.compare import diff

    compared = diff(given.first, given.second)
    if given.json:
        print(json.dumps([each.plain() for each in compared]))
    else:
        for each in compared:
            _tell(each, (given.first, given.second))
    return 1 if any(each.result == "forked" for each in compared) else 0


def _tell(compared: Any, paths: tuple[Path, Path]) -> None:
    from casam_fed.audit.show import describe

    sizes = " and ".join(f"{size:,} in {path}" for size, path in zip(compared.sizes, paths, strict=True))
    if compared.other:
        _say(f"log {compared.origin} of {paths[0]} is not the one of {paths[1]}, {compared.other}: not compared")
        return
    history = "two histories" if compared.result == "forked" else "one history"
    _say(f"log {compared.origin}, {history}: the first {compared.common:,} entries are the same; entries: {sizes}")
    for which, path in enumerate(paths):
        for event in compared.only(which):
            _say(f"only in {path}: {event.sequence} {event.time} {event.event} {describe(event)}")


def _entry(given: Any) -> int:
    from casam_fed.audit.explain import explain

    explained = explain(given.export, given.number, given.log)
    if given.json:
        print(json.dumps(explained.plain()))
    else:
        for line in explained.lines():
            _say(line)
    return 0
