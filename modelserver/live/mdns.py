"""Being found on the local network, by mDNS and DNS-SD (RFC 6762, RFC 6763). Imported only where it
is asked for."""

import ipaddress
import re

import psutil
import structlog
from zeroconf import IPVersion, NonUniqueNameException
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

log: structlog.stdlib.BoundLogger = structlog.get_logger("wyoming")

_TYPE = "_wyoming._tcp.local."
_ANY = ("", "0.0.0.0", "::")  # noqa: S104 - a comparison


class Announcement:
    """The announcement that a Wyoming server listens here."""

    def __init__(self, name: str, host: str, port: int) -> None:
        """Prepare the announcement. `host`: the address of the listener, or one that stands for
        all."""
        self._host, self._port = host, port
        label = re.sub(r"[^\w -]", "-", name)[:63]
        self._name = f"{label}.{_TYPE}"
        self._zeroconf: AsyncZeroconf | None = None

    async def begin(self) -> None:
        """Announce the service; does not wait for answers. A failure is logged, and the server
        continues."""
        try:
            own = None if self._host in _ANY else str(ipaddress.ip_address(self._host))
        except ValueError:
            own = None  # a name
        try:
            if own is None:
                self._zeroconf = AsyncZeroconf(ip_version=IPVersion.V4Only)
                addresses = None
            else:
                self._zeroconf = AsyncZeroconf(interfaces=[own])
                addresses = [own]
            info = AsyncServiceInfo(
                _TYPE, self._name, port=self._port, parsed_addresses=addresses or _addresses()
            )
            await self._zeroconf.async_register_service(info, allow_name_change=True)
        except (OSError, NonUniqueNameException, ValueError) as error:
            log.warning("wyoming.announcement_failed", reason=str(error) or type(error).__name__)
            await self.end()
        else:
            log.info("wyoming.announced", name=info.name)

    async def end(self) -> None:
        """Take it back."""
        zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is not None:
            await zeroconf.async_unregister_all_services()
            await zeroconf.async_close()


def _addresses() -> list[str]:
    """Return the addresses under which others may reach it."""
    return [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family.name == "AF_INET" and not address.address.startswith("127.")
    ]
