"""Hosts to which the server may connect."""

from ipaddress import ip_address

import pytest

from modelserver.outbound.hosts import AllowedHosts, Refused

pytestmark = pytest.mark.quick

PRIVATE = (
    "127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "[2002:7f00:1::]",
    "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[::7f00:1]", "[::8.8.8.8]",
    "[::ffff:0:127.0.0.1]", "[::ffff:0:8.8.8.8]", "[fec0::1]", "[fe80::1]", "[fc00::1]",
    "[5f00::1]", "[3fff::1]", "[::]",
)  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
def test_any_public_host_is_no_private_address(host: str) -> None:
    allowed = AllowedHosts(("*",), "jobs.url_hosts")
    with pytest.raises(Refused):
        allowed.check(f"http://{host}/a.wav")
    named = AllowedHosts((host.strip("[]"),), "jobs.url_hosts")
    assert named.check(f"http://{host}/a.wav").host


def test_public_addresses_are_allowed() -> None:
    allowed = AllowedHosts(("*",), "jobs.url_hosts")
    for host in ("8.8.8.8", "[2606:4700::1]", "example.org"):
        assert allowed.check(f"https://{host}/")


def test_an_internal_address_of_a_name_is_not_told() -> None:
    allowed = AllowedHosts(("*",), "jobs.url_hosts")
    with pytest.raises(Refused) as refused:
        allowed.check_address(ip_address("10.1.2.3"), "files.example.org")
    assert "10.1.2.3" not in str(refused.value)
    assert "files.example.org" in str(refused.value)
    assert "jobs.url_hosts" in str(refused.value)
