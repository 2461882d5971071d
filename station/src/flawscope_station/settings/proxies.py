"""Find the proxy that the environment names for an address.

Addresses on this machine and those that `no_proxy` names are reached directly. SOCKS proxies are not
supported: where the environment names only such a proxy, perhaps for browsers, all addresses are reached
directly.
"""

from __future__ import annotations

import ipaddress
import re
from fnmatch import fnmatchcase
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

import httpx

_DEFAULT_PORTS = {"http": 80, "https": 443}


def find_proxy(address: str) -> str | None:
    """Return the URL of the proxy for an address; None: the address is reached directly.

    An address whose proxy has no usable URL is reached directly, too.
    """
    target = urlsplit(address)
    proxies = getproxies()  # addresses of proxies by scheme; the key `no` has the value of `no_proxy`
    if _is_direct(target, proxies.get("no", "")):
        return None
    proxy_text = proxies.get(target.scheme) or proxies.get("all") or ""
    if "://" not in proxy_text:
        proxy_text = f"http://{proxy_text}"
    try:
        proxy = httpx.URL(proxy_text.strip())
    except httpx.InvalidURL:
        return None
    is_supported = proxy.scheme in _DEFAULT_PORTS and proxy.host
    return str(proxy) if is_supported else None


def _is_direct(target: SplitResult, no_proxy: str) -> bool:
    """Whether an address is on this machine, or `no_proxy` names it."""
    host = (target.hostname or "").rstrip(".")
    entries = re.split(r"[\s,;|]+", no_proxy)
    return _is_this_machine(host) or any(_matches(entry, target, host) for entry in entries)


def _is_this_machine(host: str) -> bool:
    """Whether a host is this machine: a loopback address, or localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost" or host.endswith(".localhost")


def _matches(entry: str, target: SplitResult, host: str) -> bool:
    """Whether an entry of `no_proxy` names the host.

    Args:
        entry: `*`, a name, `.domain`, `*.domain`, an IP address, or a network such as 10.0.0.0/8 or 10.*; a
            port may follow. `<local>` stands for all names without a domain.
        target: Address of the request; an entry with a port matches only the same port.
        host: Host of the address.
    """
    if entry == "<local>":
        return "." not in host and ":" not in host
    is_pattern = entry == "*" or "*" in entry[1:]
    if is_pattern:  # `*.domain` is not a pattern: its * is removed below
        return fnmatchcase(host, entry.lower())
    host_and_port = entry.partition("://")[2] or entry  # without a scheme such as http://
    try:  # before a port is searched for: ::1 has colons and no port
        network = ipaddress.ip_network(host_and_port.strip("[]"), strict=False)
    except ValueError:  # a name, or an address with a port
        pass
    else:
        return _is_in_network(host, network)
    name, port = host_and_port, ""
    if re.search(r":\d+$", host_and_port):
        name, _, port = host_and_port.rpartition(":")
    domain = name.strip("[]").lower().removeprefix("*").strip(".")
    if port and int(port) != (target.port or _DEFAULT_PORTS.get(target.scheme)):
        return False
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _is_in_network(host: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    """Whether a host is an IP address in the network; False for a name, because names are not resolved."""
    try:
        return ipaddress.ip_address(host) in network
    except ValueError:
        return False
