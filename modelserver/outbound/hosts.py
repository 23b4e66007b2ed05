"""Machines that the server may contact: hosts that the settings name, and private addresses only if
those are named."""

import ipaddress
from collections.abc import Iterable

from yarl import URL

from modelserver.refusal import Refusal

_LONGEST_URL = 4096

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NOT_PUBLIC = (
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # NAT64 of a local network (RFC 8215)
    ipaddress.IPv6Network("::/96"),  # IPv4-compatible (RFC 4291, 2.5.5.1)
    ipaddress.IPv6Network("::ffff:0:0:0/96"),  # IPv4-translated (RFC 2765)
    ipaddress.IPv6Network("fec0::/10"),  # site-local (RFC 3879)
    ipaddress.IPv6Network("5f00::/16"),  # segment routing (RFC 9602)
    ipaddress.IPv6Network("3fff::/20"),  # documentation (RFC 9637)
)
"""Networks that are not public, besides those that Python knows. An address that embeds an IPv4
address may be this machine's."""


class Refused(Refusal):
    """The server does not call this URL."""

    def __init__(self, message: str) -> None:
        super().__init__("url_refused", message)


class AllowedHosts:
    """Names ("example.org", "*.example.org", "*" for any that is public), and addresses or networks
    ("10.1.0.0/16"), as the settings have them."""

    def __init__(self, entries: Iterable[str], setting: str) -> None:
        """Parse the entries of `setting`. Raises `ValueError` for one that is neither a name nor an
        address."""
        self._setting = setting
        self._names: set[str] = set()
        self._networks: list[Network] = []
        for entry in entries:
            try:
                self._networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                if not entry or set(entry) & set(" /:@"):
                    raise ValueError(f"{entry!r} is not a host name, address or network") from None
                wild, name = ("*.", entry[2:]) if entry.startswith("*.") else ("", entry)
                self._names.add(wild + (name if name == "*" else _plain(name)))

    def __bool__(self) -> bool:
        return bool(self._names or self._networks)

    def check(self, text: str) -> URL:
        """Return the URL if its host is allowed. Raises `Refused`."""
        try:
            url = URL(text)
        except ValueError as error:
            raise Refused(f"this is not a URL: {error}") from error
        host = url.raw_host
        if url.scheme not in ("http", "https") or not host or len(text) > _LONGEST_URL:
            raise Refused("a URL has to begin with http:// or https://, and name a host")
        if url.user is not None:
            raise Refused("URLs with credentials are not allowed")
        if (address := _address(host)) is not None:
            self.check_address(address, host)
        elif not self._named(_plain(host)):
            raise Refused(f"{host} is not among the hosts of {self._setting}")
        return url

    def check_address(self, address: Address, host: str) -> None:
        """Check an address of the host. Raises `Refused`."""
        if any(address in network for network in self._networks):
            return
        if _address(host) is not None and "*" not in self._names:
            raise Refused(f"{host} is not among the hosts of {self._setting}")
        if not _public(address):
            raise Refused(
                f"{host} has an address that is not public: to allow it, name the address "
                f"in {self._setting} too"
            )

    def _named(self, host: str) -> bool:
        above = host.split(".")
        wild = {".".join(["*", *above[n:]]) for n in range(1, len(above))}
        return bool(self._names & {host, "*", *wild})


def _plain(host: str) -> str:
    """Return a host name as it is on the wire."""
    return (URL.build(scheme="http", host=host).raw_host or "").lower().rstrip(".")


def _address(host: str) -> Address | None:
    """Return the host as an address, if it is one. Raises `Refused` for text that other programs
    may read as an address."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        if ":" in host or host.replace(".", "").isdigit():
            raise Refused(f"{host} is not an address in its usual form") from None
    return None


def _public(address: Address) -> bool:
    """Return whether an address is public, also one that carries an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return _public(inner)
        if any(address in network for network in _NOT_PUBLIC):
            return False
    return address.is_global and not address.is_multicast
