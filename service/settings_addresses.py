"""Addresses in settings: hosts, networks, origins and path prefixes, checked and normalised."""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_interface, ip_network
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator


def parse_host(text: str) -> str:
    """An address to listen on; an IPv6 address without its brackets. Raises ValueError."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if "/" in host or (":" in host and not _is_ipv6(host)):
        raise ValueError(f"expected an address such as 0.0.0.0 or ::1, got {text}: give the port with --port")
    return host


def check_ports(**ports: int | None) -> None:
    """Raises ValueError if two of these settings name the same port."""
    taken: dict[int, str] = {}
    for name, port in ports.items():
        if port in taken:
            raise ValueError(f"{name} and {taken[port]} are both {port}: choose another, or unset {name}")
        if port is not None:
            taken[port] = name


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """An address or a network. Raises ValueError."""
    bare = text.removeprefix("[").replace("]", "")
    with suppress(ValueError):
        return ip_network(bare)
    if text == "*":
        raise ValueError("not a network: *. 0.0.0.0/0 trusts everybody, which is safe in a closed network only")
    try:
        network = ip_interface(bare).network
    except ValueError:
        raise ValueError(f"expected an address or a network such as 10.0.0.5 or 10.0.0.0/8, got {text}") from None
    raise ValueError(f"{text} has bits beyond its mask: give {network}")


def parse_origin(text: str) -> str:
    """An origin as browsers send it: in lower case, without a path (RFC 6454, section 6.2). Raises ValueError."""
    origin = text.lower().rstrip("/")
    if origin != "*" and not re.fullmatch(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d+)?", origin):
        raise ValueError(f"expected an origin such as https://example.com, or * for any, got {text}")
    return origin


def parse_prefix(text: str) -> str:
    """A path prefix, without a slash at its end. Raises ValueError."""
    if not re.fullmatch(r"/|(/[A-Za-z0-9._~-]+)*/?", text):
        raise ValueError(f"expected a path prefix such as /vision, got {text}")
    return text.rstrip("/")


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _networks(value: object) -> object:
    return tuple(parse_network(text) for text in value) if isinstance(value, tuple) else value


def _origins(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(parse_origin(text) for text in value)


# Of the whole value, not of each part: an error then names the setting.
Host = Annotated[str, AfterValidator(parse_host)]
Prefix = Annotated[str, AfterValidator(parse_prefix)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(_networks)]
Origins = Annotated[tuple[str, ...], AfterValidator(_origins)]
