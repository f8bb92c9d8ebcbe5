"""Checks which URLs may be downloaded: their syntax, and the networks of their hosts."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

_WEB = re.compile(r"^https?:", re.IGNORECASE)
_HOST_NAME = re.compile(r"^[a-z0-9_]([a-z0-9_.-]*[a-z0-9_.])?$")
_LONGEST = 8_000
_PORTS = {"http": 80, "https": 443}
# IPv4 addresses embedded in IPv6 (RFC 6052): IPv6-only networks return them for IPv4 hosts.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True)
class Url:
    """A parsed http or https URL.

    Attributes:
        scheme: "http" or "https".
        host: Host name in lower case and ASCII; an IPv6 address has no brackets.
        port: The port.
        target: Path and query, percent-encoded.
    """

    scheme: str
    host: str
    port: int
    target: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"

    @property
    def authority(self) -> str:
        """Host, and port if it is not the default one, as in a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def is_web_address(written: str) -> bool:
    """Return whether a media field contains an http or https URL, valid or not."""
    return _WEB.match(written.strip()) is not None


def parse_url(written: str) -> Url:
    """Parse an http or https URL.

    Raises:
        ValueError: With the reason as one line, if it is invalid or contains credentials.
    """
    written = written.strip()
    if len(written) > _LONGEST:
        raise ValueError(f"a URL of {len(written):,} characters")
    if not written.isprintable():
        raise ValueError("not a URL: it holds control characters")
    try:
        parts = urlsplit(written)
        port = parts.port
    except ValueError:
        raise ValueError("not a URL: host or port cannot be read") from None
    if parts.scheme not in _PORTS:
        raise ValueError("only http and https are fetched")
    if "@" in parts.netloc:
        raise ValueError("a URL with a user name or password in it is not fetched")
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if not target.startswith("/"):
        raise ValueError("not a URL: no host")
    if parts.query:
        target += "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~-._")
    port = _PORTS[parts.scheme] if port is None else port
    return Url(parts.scheme, _host(parts.hostname), port, target)


def _host(written: str | None) -> str:
    """Return a host name in ASCII, or an IP address."""
    if not written:
        raise ValueError("not a URL: no host")
    if ":" in written:
        try:
            return str(ipaddress.IPv6Address(written))
        except ValueError:
            raise ValueError("not a URL: its host cannot be read") from None
    try:
        host = written.encode("idna").decode("ascii").lower()
    except UnicodeError:
        host = ""
    if not _HOST_NAME.match(host):
        raise ValueError("not a URL: its host cannot be read")
    return host


def is_public(address: str) -> bool:
    """Return whether an IP address is on the public internet.

    False for private, loopback, link-local, multicast, reserved, unspecified and carrier-grade NAT
    ranges. False also for IPv6 forms that embed an IPv4 address (mapped, 6to4, Teredo). A NAT64
    address counts as the embedded IPv4 address.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)))
        if ip.ipv4_mapped or ip.sixtofour or ip.teredo or ip.is_site_local:
            return False
    return ip.is_global and not (
        ip.is_private
        or ip.is_loopback
        or ip.is_link_local
        or ip.is_multicast
        or ip.is_reserved
        or ip.is_unspecified
    )
