"""Run by test_isolation.py in a network without routes: a whole join, then how many packets wanted to go elsewhere."""

import contextlib
import socket
import sys
from pathlib import Path

from .federation import Federation


def unroutable() -> int:
    """Packets and connections that found no route since the network was made, IPv4 and IPv6."""
    names, values = [line.split()[1:] for line in Path("/proc/net/snmp").read_text().splitlines() if line[:3] == "Ip:"]
    six = dict(line.split() for line in Path("/proc/net/snmp6").read_text().splitlines())
    return int(dict(zip(names, values, strict=True))["OutNoRoutes"]) + int(six["Ip6OutNoRoutes"])


def main() -> None:
    federation = Federation(Path(sys.argv[1]))
    federation.start()
    print(federation.site("alone").join())
    federation.stop()
    joined = unroutable()
    with contextlib.suppress(OSError):
        socket.create_connection(("192.0.2.1", 443), 1)
    print(f"elsewhere {joined}, and {unroutable() - joined} when one was made on purpose")


if __name__ == "__main__":
    main()
