"""Free ports for servers that a test, or `.ci/run`, starts in other processes; as a program it prints one."""

import random
import socket

PORTS = range(20_000, 32_000)
"""Above the ports of Ray's workers, below those Linux gives to outgoing connections (32,768 on). So nobody gets the
port by chance between this look and the server's start."""


def free_port() -> int:
    """A port on which nobody listens."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"100 ports of {PORTS} were all taken")


if __name__ == "__main__":
    print(free_port())
