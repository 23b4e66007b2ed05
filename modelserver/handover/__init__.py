"""Restarts and upgrades without a gap: sockets, and connections that wait for their next request,
outlive the process that serves them."""

from modelserver.handover.predecessor import Predecessor
from modelserver.handover.sockets import Sockets
from modelserver.handover.upgrade import Upgrader, UpgradeRefused

__all__ = ["Predecessor", "Sockets", "UpgradeRefused", "Upgrader"]
