"""A service that inspects pictures, shows them and remembers what was decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flawscope_station.client import Client as Client

__all__ = ["Client"]


def __getattr__(name: str) -> object:
    if name == "Client":  # a program that only sends pictures does not load the server
        from flawscope_station.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
