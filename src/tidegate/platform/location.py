"""Where media may lie. Hostile locations are refused before anything is opened.

Enters: a location from a message. Leaves: nothing, or ``ForbiddenLocation``. A location is a relative path (resolved
against the media root by whoever reads it) or an http(s) URL. Refused by default: other schemes (``file://`` first of
all), absolute paths, ``..``, credentials in URLs, and every host that is not on the public internet: private, loopback
and link-local addresses in any spelling (decimal, hexadecimal, octal, IPv4 in IPv6), and local names. Names are
checked again when they are resolved (``resolve_public``), because a public name may point to a private address.

``LocationRules.allow_hosts`` opens single hosts; nothing opens ``file://``.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tidegate.errors import ForbiddenLocation

__all__ = ["LocationRules", "check_location", "resolve_local", "resolve_public"]

_LOCAL_SUFFIXES = (".local", ".localhost", ".internal", ".lan", ".home", ".corp", ".intranet")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_PORTS = frozenset({None, 80, 443, 8080, 8443})


@dataclass(frozen=True, kw_only=True)
class LocationRules:
    """What a media location may be."""

    allow_hosts: tuple[str, ...] = ()
    """Hosts that may be reached though they are not public, e.g. the platform's own object store; ``host:port``
    opens one port only."""
    allow_urls: bool = True
    """False: only paths under the media root."""


def check_location(location: str, rules: LocationRules) -> None:
    """Refuse what may not be read; nothing is opened or resolved."""
    if not location or not location.isprintable():
        raise ForbiddenLocation(f"expected a path or an http(s) URL of printable characters, got {location!r}")
    if "://" in location:
        _check_url(location, rules)
    else:
        _check_path(location)


def resolve_local(location: str, root: Path) -> Path:
    """The file under the media root; symbolic links may not lead out."""
    _check_path(location)
    base = root.resolve()
    path = (base / location).resolve()
    if not path.is_relative_to(base):
        raise ForbiddenLocation(f"expected a path under the media root, got {location!r}")
    return path


def resolve_public(host: str, port: int, rules: LocationRules) -> str:
    """The address to connect to: the host's first one, if all of them are public. Connect to this, not to the name."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ForbiddenLocation(f"expected a host that resolves, got {host!r}: {error}") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not _is_allowed(host, port, rules):
        for address in addresses:
            _check_address(address, host)
    return addresses[0]


def _check_path(location: str) -> None:
    plain = unquote(location).replace("\\", "/")
    scheme = plain.split("/", 1)[0]
    if plain.startswith(("/", "~")) or ":" in scheme or ".." in plain.split("/"):
        raise ForbiddenLocation(f"expected a path relative to the media root without '..', got {location!r}")


def _check_url(location: str, rules: LocationRules) -> None:
    try:
        parts = urlsplit(location)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ForbiddenLocation(f"expected an http(s) URL, got {location!r}: {error}") from error
    if parts.scheme.lower() not in {"http", "https"} or not rules.allow_urls:
        raise ForbiddenLocation(f"expected {'an http(s) URL' if rules.allow_urls else 'a path'}, got {location!r}")
    if not host or "@" in parts.netloc or "\\" in location:
        raise ForbiddenLocation(f"expected a URL with a host and no credentials, got {location!r}")
    if _is_allowed(host, port, rules):
        return
    if port not in _PORTS:
        raise ForbiddenLocation(f"expected a usual web port, got {port} in {location!r}")
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(_LOCAL_SUFFIXES) or ("." not in name and ":" not in name):
        raise ForbiddenLocation(f"expected a public host, got {host!r}")
    address = _as_address(name)
    if address is not None:
        _check_address(address, host)


def _is_allowed(host: str, port: int | None, rules: LocationRules) -> bool:
    name = host.lower()
    return name in rules.allow_hosts or (port is not None and f"{name}:{port}" in rules.allow_hosts)


def _as_address(name: str) -> str | None:
    """The address that a host spells, in any of the forms that resolvers accept; None for a name."""
    try:
        return str(ipaddress.ip_address(name.split("%", 1)[0]))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(name))
    except OSError:
        return None


def _check_address(address: str, host: str) -> None:
    parsed = ipaddress.ip_address(address.split("%", 1)[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        embedded = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo else None)
        if parsed in _NAT64:
            embedded = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if embedded is not None:
            _check_address(str(embedded), host)
            return
    if not parsed.is_global or parsed.is_multicast:
        raise ForbiddenLocation(f"expected a public address, got {address} for {host!r}")
