"""The server that answers like EC2."""

from __future__ import annotations

from cloud import cloud, ssh_port

__all__ = ["cloud", "ssh_port"]
