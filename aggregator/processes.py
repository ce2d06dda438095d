"""The aggregator's processes: SuperLink and SuperExec on loopback, and the gateway, which alone faces strangers."""

import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable

from aggregator.authority import renew_server_certificate
from aggregator.home import Home, host_and_port
from casam_fed.errors import SupervisionError
from casam_fed.host.processes import module_command, port_holder
from casam_fed.host.supervision import Child

__all__ = ["check_ports", "children"]


def check_ports(home: Home) -> None:
    """Check that the ports are free.

    Raises:
        SupervisionError: one is taken; the message says by whom, where that can be seen.
    """
    listen = host_and_port(home.config.listen)
    for what, key, (host, port) in (
        ("the public port", "listen", listen),
        ("the SuperLink's port", "superlink_port", ("127.0.0.1", home.config.superlink_port)),
    ):
        if holder := port_holder(host, port):
            raise SupervisionError(
                f"{what} {host}:{port} is in use by {holder}; end that, or change {key} in {home.path / 'aggregator.yaml'}"
            )


def children(home: Home) -> tuple[Child, ...]:
    """Return what has to run, in the order of starting; the TLS certificate is renewed first where it is due.

    Raises:
        ConfigError, StorageError: as `renew_server_certificate`.
    """
    renew_server_certificate(home.keys, host_and_port(home.config.address)[0])
    certificate, ca, address = str(home.server_certificate), str(home.ca), home.superlink_address
    environment = {
        "FLWR_HOME": str(home.path / "flower"),
        # A delivery starts a second sooner for it, at the price of five small requests a second on loopback.
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        # glibc otherwise keeps what passed through: a few releases would leave the SuperLink at several times its size.
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(4 << 20),
    }
    superlink = (
        *("flower-superlink", "--host", "127.0.0.1", "--port", str(home.config.superlink_port)),
        *("--ssl-certfile", certificate, "--ssl-keyfile", certificate, "--ssl-ca-certfile", ca),
        *("--enable-supernode-auth", "--database", str(home.path / "flower" / "state.db")),
        *("--disable-runtime-dependency-installation", "--isolation", "process"),
        *("--superexec-auth-secret-file", str(home.superexec_secret)),
    )
    superexec = (*module_command("aggregator.superexec"), str(home.path))
    gateway = (
        *(*module_command("aggregator.gateway"), "--listen", home.config.listen, "--upstream", address),
        *("--ca", ca, "--certificate", certificate, "--key", certificate),
    )
    return (
        Child("superlink", superlink, environment, _answers(home)),
        Child("superexec", superexec, environment),
        Child("gateway", gateway, environment, _listens(home)),
    )


def _listens(home: Home) -> Callable[[], bool]:
    host, port = host_and_port(home.config.listen)

    def ready() -> bool:
        try:
            socket.create_connection((_reachable(host), port), 2).close()
        except OSError:
            return False
        return True

    return ready


def _reachable(host: str) -> str:
    """Return where this machine reaches a server that listens on `host`, which may be all interfaces."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def _answers(home: Home) -> Callable[[], bool]:
    context = ssl.create_default_context(cafile=str(home.ca))

    def ready() -> bool:
        try:
            with urllib.request.urlopen(
                f"https://{home.superlink_address}/health", context=context, timeout=2
            ) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    return ready
