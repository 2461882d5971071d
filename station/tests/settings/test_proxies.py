"""A company's proxy is asked for what needs it, in all forms of `no_proxy`; a SOCKS proxy for nothing."""

import pytest

from flawscope_station.settings.proxies import find_proxy

PROXY = "http://proxy.example:3128"
HTTP = {"http_proxy": PROXY, "https_proxy": PROXY}
LINE = "http://line3.plant.example:8080"
HERE = "127.0.0.1", "localhost", "[::1]", "127.8.8.8", "a.localhost"
NAMES = "*|plant.example|.plant.example|*.plant.example|LINE3.plant.example|line3.plant.example.|.example."
NAMES += "|line3.*|line*.plant.example"
NAMES += "|a, plant.example|a plant.example b|a;plant.example|plant.example:8080|http://plant.example"
OTHERS = "|,|<local>|plant.*|ant.example|plant.example:80|10.0.0.0/8|line3.plant.example.com|example.plant"
NETWORKS = "10.1.2.3", "10.0.0.0/8", "10.1.2.3:8080", "10.1.0.0/255.255.0.0", "10.*", "10.1.*"
TRIED: tuple[tuple[str, dict[str, str], bool], ...] = (
    ("http://mes.example/in", {}, False),
    ("http://mes.example/in", HTTP, True),
    ("https://mes.example/in", {"HTTPS_PROXY": PROXY}, True),
    ("https://mes.example/in", {"http_proxy": PROXY}, False),
    ("https://mes.example/in", {"ALL_PROXY": PROXY}, True),
    ("https://mes.example/in", {"ALL_PROXY": "proxy.example:3128"}, True),
    ("https://mes.example/in", {"ALL_PROXY": "socks5://proxy.example:1080"}, False),
    ("https://mes.example/in", {"all_proxy": "socks5h://proxy.example:1080", **HTTP}, True),
    ("https://mes.example/in", {"https_proxy": "http://"}, False),
    *((f"http://{here}:8080", HTTP, False) for here in HERE),
    ("http://mes:8080", {**HTTP, "no_proxy": "<local>"}, False),
    ("http://mes:8080", {**HTTP, "no_proxy": "localhost|mes"}, False),
    ("http://[fd00::7]/", {**HTTP, "no_proxy": "<local>"}, True),
    *((LINE, {**HTTP, "no_proxy": given}, False) for given in NAMES.split("|")),
    *((LINE, {**HTTP, "NO_PROXY": given}, True) for given in OTHERS.split("|")),
    *(("http://10.1.2.3:8080", {**HTTP, "no_proxy": given}, False) for given in NETWORKS),
    *(("http://10.1.2.3:8080", {**HTTP, "no_proxy": given}, True) for given in ("10.1.2.4", "::1")),
    *(("http://[fd00::7]/", {**HTTP, "no_proxy": given}, False) for given in ("fd00::7", "fd00::/8")),
)


@pytest.mark.parametrize(("address", "environment", "is_asked"), TRIED)
def test_the_environment_names_a_proxy(monkeypatch, address, environment, is_asked):
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (find_proxy(address) is not None) is is_asked
