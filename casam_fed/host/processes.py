"""Processes and ports of this machine: how ours are started, who carries a mark, and who holds a port."""

import contextlib
import errno
import os
import socket
import sys
import time

import psutil

__all__ = ["end_marked", "free_port", "marked", "module_command", "port_holder"]

_PATIENCE_S = 60.0


def module_command(module: str) -> tuple[str, ...]:
    """Return the command that runs a module of ours with this Python.

    With -P no file in the working folder, where somebody types among downloads, is taken for a module.
    """
    return sys.executable, "-P", "-m", module


def marked(variable: str, value: str, seen: set[psutil.Process]) -> list[psutil.Process]:
    """Return the living processes of this user with VARIABLE=VALUE in their environment, and their descendants.

    Some of Ray's processes overwrite their environment with a title, and lose their parent when it ends first; so whoever
    was once seen stays a member: `seen` is brought up to date.
    """
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(variable) == value:
                seen.add(process)
    for process in list(seen):
        with contextlib.suppress(psutil.Error):
            seen.update(process.children(recursive=True))
    seen.intersection_update([process for process in seen if _lives(process)])
    return list(seen)


def end_marked(variable: str, value: str, seen: set[psutil.Process], grace_s: float) -> int:
    """End all `marked` processes, politely, then by force, as often as new ones appear; return how many there were."""
    send, ended = psutil.Process.terminate, set()
    deadline = time.monotonic() + _PATIENCE_S
    while (members := marked(variable, value, seen)) and time.monotonic() < deadline:
        for process in members:
            with contextlib.suppress(psutil.Error):
                send(process)
        ended.update(members)
        until = time.monotonic() + grace_s
        while any(_lives(process) for process in members) and time.monotonic() < until:
            time.sleep(0.05)
        send = psutil.Process.kill
    return len(ended)


def free_port() -> int:
    """Return a TCP port that nobody uses on loopback at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_holder(host: str, port: int) -> str | None:
    """Return who keeps a server from listening on the port, e.g. "python (pid 123)"; None when nobody does."""
    if not _taken(host, port):
        return None
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return f"{process.name()} (pid {process.pid})"
    return "another process"


def _taken(host: str, port: int) -> bool:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: connections of an earlier server that are still winding up do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _lives(process: psutil.Process) -> bool:
    """Return whether a process runs; a zombie does not, and where nobody waits for it, it stays for ever."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
