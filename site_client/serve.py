"""The process that answers for a hospital while it is online: `python -m site_client.serve FOLDER --runtime HOST:PORT`.

`casam-site` starts it beside a SuperNode and restarts it when it dies. All it knows is in the site's folder, so killing it
loses nothing but the message it was about to answer.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from casam_fed.errors import CasamError
from casam_fed.host.supervision import PRIVATE_ENVIRONMENT

os.environ.update(PRIVATE_ENVIRONMENT)

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict

from site_client.client_app import make_client_app
from site_client.deployed import DeployedSite
from site_client.egress import Gate
from site_client.home import SiteHome
from site_client.node import TaskLoop
from site_client.release_log import ReleaseLog
from site_client.wire import refusal_of

__all__ = ["Exit", "main"]

log = logging.getLogger("site_client")

_WITHHELD = 0


class Exit:
    """What a site says to messages, and the gate that all of it passes."""

    def __init__(self, site: DeployedSite) -> None:
        """Let `site` answer."""
        self._app = make_client_app(lambda _context, _seed: site)
        self._gate = Gate(ReleaseLog(site.home), site.welcome.federation, site.outbox.is_approved)

    def answer(self, message: Message, context: Context) -> Message:
        """Return a handler's reply to a message of an allowed app, as it may leave."""
        kind = message.metadata.message_type
        try:
            reply = self._app(message, context)
        except Exception:
            # Only a message of a kind that has no handler gets here: handlers turn their failures into codes.
            log.exception("a message of kind %.40r could not be handled", kind)
            reply = Message(RecordDict({"payload": ConfigRecord({"error": "UnknownMessage"})}), reply_to=message)
        return self._through(lambda: self._gate.passed(reply), message)

    def refuse(self, message: Message, app: str) -> Message:
        """Return the refusal of a message of an app that is not allowed here, as it may leave."""
        log.error("refused an app that is not allowed here: %s", app)
        return self._through(lambda: self._gate.refusal(refusal_of(message, "AppNotAllowed")), message)

    def left(self, reply: Message) -> None:
        """Log that a reply has left."""
        try:
            self._gate.left(reply)
        except CasamError as error:
            # Its intent stands in the log already.
            log.error("that a message has left could not be logged: %s", error)

    def _through(self, passed: Callable[[], Message], message: Message) -> Message:
        try:
            return passed()
        except Exception as error:
            # A full disk, or a defect of ours: what has no entry in the log does not leave, only a number does.
            log.error("nothing is sent: %s", error, exc_info=not isinstance(error, CasamError))
            return Message(Error(_WITHHELD), reply_to=message)


def main(arguments: list[str] | None = None) -> None:
    """Serve until killed; exit code 1 with one sentence where the folder does not allow it."""
    parser = argparse.ArgumentParser(prog="site_client.serve", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--runtime", required=True, metavar="HOST:PORT", help="the SuperNode's runtime API, on loopback"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        home = SiteHome(options.folder)
        site = DeployedSite(home)
        if not home.trusts(site.welcome):
            raise CasamError("nobody has confirmed this aggregator yet; run casam-site join")
    except CasamError as error:
        sys.exit(f"casam-site: {error}")

    logging.getLogger("site_client").addHandler(_Shown(home))

    way_out = Exit(site)
    loop = TaskLoop(
        address=options.runtime,
        secret=home.keys / "supernode.secret",
        allowed=frozenset({site.welcome.app}),
        answer=way_out.answer,
        refuse=way_out.refuse,
        left=way_out.left,
    )
    loop.run()


class _Shown(logging.Handler):
    """Shows what went wrong to whoever waits at the site's terminal; it never leaves the site."""

    def __init__(self, home: SiteHome) -> None:
        super().__init__(logging.ERROR)
        self._home = home

    def emit(self, record: logging.LogRecord) -> None:
        self._home.say(record.getMessage())


if __name__ == "__main__":
    main()
