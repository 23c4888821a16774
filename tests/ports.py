"""Ports for servers that begin to listen some time later."""

import random
import socket


def free_ports(count: int) -> list[int]:
    """Ports that are free together with the port 10,000 above, where an S3 server answers gRPC.

    They lie below those that the kernel hands out, so nobody who asks it for any port gets them meanwhile.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.randint(20_000, 22_700)  # noqa: S311 - no secret
        if port not in ports and _is_free(port) and _is_free(port + 10_000):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
