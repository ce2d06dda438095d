"""What `casam-site doctor` checks, each with its result and its mend. Nothing here changes anything."""

import email.utils
import os
import platform
import shutil
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import httpx

from casam_fed.errors import CasamError
from casam_fed.host.files import cache_dir
from casam_fed.host.supervision import PRIVATE_ENVIRONMENT
from casam_fed.wire.enrolment import Welcome
from site_client.home import SiteHome

__all__ = ["Finding", "findings"]

_LEAST_FREE_GB = 2.0
_CLOCK_S = 60.0
"""A SuperNode signs the time: Flower refuses what is off by more than some ten seconds to a few minutes."""

_CLOSED = ("/v1/control/list-nodes", "/v1/runtime/acquire-task")


@dataclass(frozen=True)
class Finding:
    """One line of the table: what was checked, how it is, what was seen, and how to mend it."""

    check: str
    state: Literal["ok", "warning", "wrong"]
    seen: str
    mend: str = ""


def findings(home: SiteHome, quick: bool = False) -> Iterator[Finding]:
    """Yield all findings, the cheapest first.

    Args:
        home: the site.
        quick: leave out the forecast, which encodes an image and takes two steps of training.
    """
    yield Finding(
        "python", "ok" if sys.version_info >= (3, 11) else "wrong", platform.python_version(), "use 3.11 or newer"
    )
    yield _keys(home)
    yield from _disk(home)
    loose = [name for name, value in PRIVATE_ENVIRONMENT.items() if os.environ.get(name) != value]
    yield Finding(
        "telemetry", "wrong" if loose else "ok", "off" if not loose else ", ".join(loose), "use casam-site itself"
    )
    try:
        welcome = home.welcome()
    except CasamError as error:
        yield Finding("welcome", "wrong", "none that fits", str(error))
        return
    trust = home.trusts(welcome)
    yield Finding(
        "welcome",
        "ok" if trust else "warning",
        f"{welcome.federation} at {welcome.address}{'' if trust else ', not confirmed by a person yet'}",
        "casam-site join asks for the aggregator's fingerprint",
    )
    yield from _aggregator(welcome)
    yield from _machine(home, welcome, quick)


def _keys(home: SiteHome) -> Finding:
    try:
        home.signing_key()
    except CasamError as error:
        return Finding("keys", "wrong", "unusable", str(error))
    secrets = [path for path in home.keys.iterdir() if path.suffix != ".pub"]
    open_to_others = [path.name for path in secrets if path.stat().st_mode & 0o077]
    if open_to_others:
        return Finding("keys", "wrong", f"others can read {', '.join(open_to_others)}", f"chmod 600 {home.keys}/*")
    return Finding("keys", "ok", "only this user can read them")


def _disk(home: SiteHome) -> Iterator[Finding]:
    for what, path in (("disk, site", home.path), ("disk, cache", cache_dir())):
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
        free = shutil.disk_usage(existing).free / 2**30
        state: Literal["ok", "warning"] = "ok" if free >= _LEAST_FREE_GB else "warning"
        yield Finding(what, state, f"{free:.1f} GB free at {path}", f"free {_LEAST_FREE_GB:g} GB or set CASAM_CACHE")


def _aggregator(welcome: Welcome) -> Iterator[Finding]:
    """Look at the aggregator as any stranger with its certificate authority could."""
    context = ssl.create_default_context(cadata=welcome.ca)
    with httpx.Client(base_url=f"https://{welcome.address}", verify=context, timeout=10) as client:
        try:
            answer = client.get("/health")
        except httpx.HTTPError as error:
            yield Finding(
                "aggregator",
                "wrong",
                f"{welcome.address} cannot be reached ({_reason(error)})",
                "ask whether it is up, and whether the firewall lets this machine connect to that one port",
            )
            return
        yield Finding(
            "aggregator",
            "ok" if answer.status_code == 200 else "wrong",
            f"answers with {answer.status_code} over TLS, certificate by the authority in the welcome",
            "ask the operator to look at casam-aggregator status",
        )
        yield _clock(answer.headers.get("date", ""))
        for path in _CLOSED:
            status = _status(client, path)
            yield Finding(
                f"closed: {path.split('/')[2]}",
                "ok" if status in (401, 403) else "wrong",
                f"{path} from outside: {status or 'no answer'}",
                "tell the operator: this must not be reachable; do not join until it is closed",
            )


def _clock(date: str) -> Finding:
    try:
        off = abs(time.time() - email.utils.parsedate_to_datetime(date).timestamp())
    except ValueError:
        return Finding("clock", "warning", "the aggregator does not tell its time", "compare the clocks by hand")
    return Finding("clock", "ok" if off < _CLOCK_S else "wrong", f"{off:.0f} s apart", "set both clocks by NTP")


def _machine(home: SiteHome, welcome: Welcome, quick: bool) -> Iterator[Finding]:
    """Look at torch, the backbone and the data, and foretell the training."""
    import torch

    from casam_fed.backbone.model import load_backbone
    from casam_fed.data.dataset import open_dataset

    method = home.method(welcome)
    yield Finding("torch", "ok", torch.__version__)
    torch.set_num_threads(method.threads)
    try:
        backbone = load_backbone(method.backbone, method.device)
    except CasamError as error:
        yield Finding("backbone", "wrong", method.backbone, str(error))
        return
    yield Finding("backbone", "ok", f"{backbone.name} {backbone.digest[:16]}, as pinned in this installation")
    yield Finding("device", "ok", str(backbone.device))
    try:
        dataset = open_dataset(home.settings.data, home.path, home.work / "split.json")
    except CasamError as error:
        yield Finding("data", "wrong", "cannot be listed", str(error))
        return
    train, test = len(dataset.train), len(dataset.test)
    least = home.settings.minimum_images
    yield Finding(
        "data",
        "ok" if test >= least else "warning",
        f"{train} images for training, {test} for testing",
        f"scores of fewer than {least} test images stay here",
    )
    if not quick:
        from site_client.forecast import forecast

        told = forecast(backbone, method, train, train + test)
        yield Finding(
            "forecast",
            "ok",
            f"encoding {told.encode_s:.0f} s, training {told.train_s:.0f} s, memory {told.memory_mb:.0f} MB or more",
        )


def _status(client: httpx.Client, path: str) -> int:
    try:
        return client.post(path, content=b"", headers={"content-type": "application/protobuf"}).status_code
    except httpx.HTTPError:
        return 0


def _reason(error: httpx.HTTPError) -> str:
    return str(error).split("\n")[0][:120] or type(error).__name__
