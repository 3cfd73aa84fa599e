"""Telling systemd how a service is (sd_notify), without a dependency."""

from __future__ import annotations

import os
import socket


def notify(*states: str) -> None:
    """Send states such as `READY=1`, `WATCHDOG=1` or `STOPPING=1`. Does nothing outside of systemd.

    A manager that cannot be told is no reason to stop working, so errors of the socket are ignored.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto("\n".join(states).encode(), address)
    except OSError:
        pass
