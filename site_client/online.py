"""A site online: a SuperNode that talks to the aggregator, and beside it the process that answers (site_client.serve)."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from casam_fed.errors import BankError, ExchangeError
from casam_fed.host.files import write_atomically
from casam_fed.host.line_log import read_lines
from casam_fed.host.processes import free_port, module_command
from casam_fed.host.supervision import Child, Supervisor
from casam_fed.wire.enrolment import Welcome
from site_client.home import SiteHome

__all__ = ["Online", "online", "supernode_command"]

T = TypeVar("T")

_LOOK_S = 0.25
_HINT_S = 30.0
_LINGER_S = 2.0
_NOT_LET_IN = "[code: 2004]"


class Online:
    """A site whose processes run; it watches the folder that they write."""

    def __init__(self, home: SiteHome, supervisor: Supervisor, say: Callable[[str], None]) -> None:
        """Watch over the processes that `supervisor` keeps alive."""
        self.home, self.say = home, say
        self._supervisor = supervisor
        self._answering = supervisor.pid("clientapp")
        self._explained = False
        self._position = read_lines(home.progress)[1]

    def wait_for(self, look: Callable[[], T | None], what: str, seconds: float) -> T:
        """Return what `look` finds, once it finds something; meanwhile show what happens, and mend what breaks.

        Raises:
            ExchangeError: nothing was found in time.
        """
        deadline, hint = time.monotonic() + seconds, time.monotonic() + _HINT_S
        while (found := look()) is None:
            self.tend()
            if time.monotonic() > deadline:
                raise ExchangeError(
                    f"no {what} within {seconds:.0f} s; casam-site doctor says whether the aggregator can be reached, "
                    "then run again: nothing is lost"
                )
            if time.monotonic() > hint:
                hint += 10 * _HINT_S
                self.say(f"still waiting for the {what}; the aggregator decides when")
            time.sleep(_LOOK_S)
        self.show()
        return found

    def linger(self) -> None:
        """Give the SuperNode time to pass on the last answer: it looks for one every half second, and tells nobody."""
        until = time.monotonic() + _LINGER_S
        while time.monotonic() < until:
            self.pause()

    def pause(self) -> None:
        """Let some time go by."""
        self.tend()
        time.sleep(_LOOK_S)

    def tend(self) -> None:
        """Show what has happened and restart what has died.

        Raises:
            BankError: the aggregator has offered a bank that takes something back; the site stops.
        """
        self._supervisor.tend()
        if self.home.stopped.exists():
            raise BankError(self.home.stopped.read_text())
        answering = self._supervisor.pid("clientapp")
        if answering != self._answering and self._answering is not None and answering is not None:
            # Its SuperNode waits for ever for the answer that died with it.
            self._supervisor.restart("supernode")
        self._answering = answering or self._answering
        self._explain()
        self.show()

    def _explain(self) -> None:
        """Say once what Flower's number for "not let in" means."""
        if self._supervisor.pid("supernode") is None and not self._explained:
            log = self.home.path / "logs" / "supernode.log"
            if log.exists() and _NOT_LET_IN in log.read_text(errors="replace")[-4096:]:
                self._explained = True
                self.say(
                    "the aggregator does not let this site in: either its keys are not enrolled (ask the operator), or it "
                    "was cut off within the last minute; then it is let in soon, and this goes on by itself"
                )

    def show(self) -> None:
        """Print the events that were written since the last look."""
        events, self._position = read_lines(self.home.progress, self._position)
        for event in events:
            self.say(event["text"])


@contextlib.contextmanager
def online(home: SiteHome, welcome: Welcome, say: Callable[[str], None]) -> Iterator[Online]:
    """Bring the site online for as long as the context lasts.

    Raises:
        SupervisionError: another process has this site online, or Flower's SuperNode does not start.
    """
    home.stopped.unlink(missing_ok=True)
    port = free_port()
    serve = (*module_command("site_client.serve"), str(home.path), "--runtime", f"127.0.0.1:{port}")
    # Whatever Flower keeps of a run stays below the site's folder.
    environment = {"FLWR_HOME": str(home.work / "flower")}
    children = (
        Child("supernode", supernode_command(home, welcome, port), environment, longest_delay_s=5.0),
        Child("clientapp", serve, environment, longest_delay_s=5.0),
    )
    with Supervisor(children, home.path, say) as supervisor:
        yield Online(home, supervisor, say)


def supernode_command(home: SiteHome, welcome: Welcome, port: int) -> tuple[str, ...]:
    """Return the command line of this site's SuperNode, whose runtime API listens on `port` of loopback.

    Raises:
        StorageError: the certificate authority's file cannot be written.
    """
    ca = home.work / "ca.pem"
    write_atomically(ca, welcome.ca.encode("ascii"))
    return (
        *("flower-supernode", "--superlink", welcome.address, "--root-certificates", str(ca)),
        *("--auth-supernode-private-key", str(home.keys / "node.key")),
        *("--host", "127.0.0.1", "--port", str(port), "--isolation", "process"),
        *("--superexec-auth-secret-file", str(home.keys / "supernode.secret")),
    )
