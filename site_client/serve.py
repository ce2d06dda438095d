"""The process that answers for a hospital while it is online: `python -m site_client.serve FOLDER --runtime HOST:PORT`.

`casam-site` starts it beside a SuperNode and restarts it when it dies. All it knows is in the site's folder, so killing it
loses nothing but the message it was about to answer.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from casam_fed.errors import CasamError
from casam_fed.host.supervision import PRIVATE_ENVIRONMENT

os.environ.update(PRIVATE_ENVIRONMENT)


from site_client.answering import AnsweringSite
from site_client.egress import WayOut
from site_client.home import SiteHome
from site_client.node import TaskLoop

__all__ = ["main"]


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
        site = AnsweringSite(home)
        if not home.trusts(site.welcome):
            raise CasamError("nobody has confirmed this aggregator yet; run casam-site join")
    except CasamError as error:
        sys.exit(f"casam-site: {error}")

    logging.getLogger("site_client").addHandler(_Shown(home))

    way_out = WayOut(site)
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
