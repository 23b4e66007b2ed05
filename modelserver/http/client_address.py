"""The address of a client, behind gateways that are trusted."""

import functools
import ipaddress

from aiohttp import web

from modelserver.settings import ProxySettings


def client_address(request: web.BaseRequest, proxies: ProxySettings) -> str:
    """Return the address of the client: the one that the last trusted gateway reports, or the
    peer's."""
    client = _plain(request.remote or "")
    if not _is_in(client, proxies.trusted):
        return client
    forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
    if not forwarded:
        return client
    for part in reversed(forwarded.split(",")):
        address = part.strip().strip('"')
        if address.startswith("["):
            address = address[1:].partition("]")[0]
        elif address.count(":") == 1:
            address = address.partition(":")[0]
        if not _is_address(address):
            break
        address = client = _plain(address)
        if not _is_in(address, proxies.trusted):
            break
    return client


def _plain(address: str) -> str:
    """Return the IPv4 address that an IPv6 one stands for (::ffff:127.0.0.1, as a socket for both
    families has it), or the address as it is."""
    if ":" not in address:
        return address
    try:
        mapped = ipaddress.IPv6Address(address).ipv4_mapped
    except ValueError:
        return address
    return str(mapped) if mapped is not None else address


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=1024)
def _is_in(address: str, networks: tuple[str, ...]) -> bool:
    try:
        one = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(one in ipaddress.ip_network(network, strict=False) for network in networks)
