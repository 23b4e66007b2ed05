"""Addresses that only this machine can reach."""

import ipaddress
import socket


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`."""
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(found[4][0]).is_loopback for found in addresses)
