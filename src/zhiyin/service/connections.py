"""Limits of connections: how many there may be, and which give way to new ones.

At the limits, of one address or of all, the connection that has been idle for the longest time is closed in favour of a
new one, so that thousands of silent connections lock nobody out. All connections are checked once a second: those that
are slow in sending headers or in reading their answer are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

from zhiyin.service.http_connection import DRAIN_WINDOW_BYTES, Connection

# Connections in all, and of one address, where the settings do not say; descriptors left to files and the store.
MAX_CONNECTIONS, MAX_CONNECTIONS_OF_ADDRESS, SPARE_DESCRIPTORS = 4_096, 1_024, 256
# Seconds between two checks of all connections.
CHECK_SECONDS = 1.0
# Connections that may have a receive buffer of `DRAIN_WINDOW_BYTES` at once.
MAX_DRAIN_WINDOWS = 32


class Connections:
    """All connections of a process.

    Parameters
    ----------
    limit: connections in all.
    of_one: connections of one address.
    trusted: networks of proxies, whose connections are those of many clients: only `limit` applies to them.

    Attributes
    ----------
    refused, evicted: connections refused, and connections closed in favour of new ones.
    windows: refused connections that may still get a large receive buffer.
    """

    def __init__(
        self, limit: int = MAX_CONNECTIONS, of_one: int = MAX_CONNECTIONS_OF_ADDRESS, trusted: Sequence[str] = ()
    ) -> None:
        self.limit, self.of_one = limit, of_one
        self._trusted = [ip_network(text, strict=False) for text in trusted]
        self._of: dict[str, dict[Connection, None]] = {}
        self._number = self.refused = self.evicted = 0
        self.windows = MAX_DRAIN_WINDOWS if _largest_window() >= DRAIN_WINDOW_BYTES else 0
        self._check_timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return self._number

    def opened(self, one: Connection) -> bool:
        """Whether there is room for a new connection; the longest idle one may have been closed for it."""
        address = one.address
        own = self._of.get(address, {})
        if len(own) >= self.of_one and not self._is_proxy(address) and not self._evict(own):
            self.refused += 1
            return False
        if self._number >= self.limit:
            largest = max(self._of.values(), key=len)
            if not self._evict(largest) and not any(self._evict(of) for of in list(self._of.values())):
                self.refused += 1
                return False
        self._of.setdefault(address, {})[one] = None
        self._number += 1
        if self._check_timer is None:
            self._check_timer = one.loop.call_later(CHECK_SECONDS, self._check_all)
        return True

    def closed(self, one: Connection) -> None:
        """A connection was closed."""
        own = self._of.get(one.address)
        if own is not None and one in own:
            del own[one]
            self._number -= 1
            if not own:
                del self._of[one.address]

    def _is_proxy(self, address: str) -> bool:
        try:
            return any(ip_address(address) in network for network in self._trusted)
        except ValueError:  # a Unix socket
            return True

    def _evict(self, own: dict[Connection, None]) -> bool:
        """Close the oldest of these connections without any request so far; else the oldest one that is idle."""
        idle = next((one for one in own if one.silent), None) or next((one for one in own if one.idle), None)
        if idle is None:
            return False
        self.evicted += 1
        self.closed(idle)
        idle.abort()
        return True

    def _check_all(self) -> None:
        self._check_timer = None
        now = time.monotonic()
        for own in list(self._of.values()):
            for one in list(own):
                one.check(now)
        if self._number:
            loop = asyncio.get_running_loop()
            self._check_timer = loop.call_later(CHECK_SECONDS, self._check_all)


def limited(connections: Connections) -> type[Connection]:
    """A class of connections within these limits, for uvicorn."""
    return type("LimitedConnection", (Connection,), {"all": connections})


def _largest_window() -> int:
    """The largest receive buffer that the kernel allows, in bytes; 0: unknown."""
    try:
        return int(Path("/proc/sys/net/core/rmem_max").read_text())
    except (OSError, ValueError):
        return 0


def descriptors() -> int:
    """Raise the limit of open files of this process as far as allowed; returns it."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MAX_CONNECTIONS + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, MAX_CONNECTIONS + SPARE_DESCRIPTORS)
    wanted = min(max(soft, MAX_CONNECTIONS + SPARE_DESCRIPTORS), wanted)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return int(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
