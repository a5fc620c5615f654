"""Who an actor is: process and node, for `rex-rl status` and for the log of a death."""

import os
from dataclasses import dataclass

import ray


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """An actor's process."""

    pid: int
    node: str
    """Address of the node it runs on."""


def own_identity() -> Identity:
    """The identity of the actor that calls it."""
    return Identity(pid=os.getpid(), node=ray.util.get_node_ip_address())
