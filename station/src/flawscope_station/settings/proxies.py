"""A company's proxy, as the environment names it, for addresses that need one.

What runs here and whatever `no_proxy` names is reached directly, and so is all where only a SOCKS proxy is
named, which is not spoken: a variable that was set for browsers stops no station.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from fnmatch import fnmatchcase
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

import httpx

_DEFAULT_PORTS = {"http": 80, "https": 443}


def find_proxy(address: str) -> str | None:
    """Return the URL of the proxy for an address, or None: it is reached directly."""
    target = urlsplit(address)
    named = getproxies()
    if _is_direct(target, named.get("no", "")):
        return None
    proxy = named.get(target.scheme) or named.get("all") or ""
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    with suppress(httpx.InvalidURL):
        found = httpx.URL(proxy.strip())
        if found.scheme in _DEFAULT_PORTS and found.host:
            return str(found)
    return None


def _is_direct(target: SplitResult, no_proxy: str) -> bool:
    """Whether an address is on this machine, or `no_proxy` names it."""
    host = (target.hostname or "").rstrip(".")
    entries = re.split(r"[\s,;|]+", no_proxy)
    return _is_here(host) or any(_matches(entry, target, host) for entry in entries)


def _is_here(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def _matches(entry: str, target: SplitResult, host: str) -> bool:
    """Whether an entry of `no_proxy` names the host.

    An entry is `*`, a name, `.domain`, `*.domain`, an IP address, or a network such as 10.0.0.0/8 or 10.*,
    each perhaps with a port. `<local>` means a name without a domain.
    """
    if entry == "<local>":
        return "." not in host and ":" not in host
    if "*" in entry[1:] or entry == "*":
        return fnmatchcase(host, entry.lower())
    entry = entry.partition("://")[2] or entry
    with suppress(ValueError):  # also ::1, which has colons and no port
        return _is_in_network(host, ipaddress.ip_network(entry.strip("[]"), strict=False))
    name, _, port = entry.rpartition(":") if re.search(r":\d+$", entry) else (entry, "", "")
    name = name.strip("[]").lower().removeprefix("*").strip(".")
    if port and int(port) != (target.port or _DEFAULT_PORTS.get(target.scheme)):
        return False
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _is_in_network(host: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    try:
        return ipaddress.ip_address(host) in network
    except ValueError:
        return False  # a name: it is not looked up
