"""Settings that hold, as people and programs may see them: without secrets, and with a hash.

Addresses lose what may be secret in them, as `redact_address` says. Files of passwords are named, not read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from flawscope_station.settings.station import ProductSettings, Settings
from flawscope_station.settings.values import redact_address

MASK = "…"
VALUE_DIGITS = 4  # of the hash of one value: 16 bits, from which nobody gets a password
_SECRET_NAME = re.compile(r".*(password|passphrase|secret|token)")  # a plugin may have one beside its files
_PLUGIN_FIELDS = {"name", "values", "open"}


def with_products(settings: Settings, products: Mapping[str, ProductSettings]) -> dict[str, object]:
    """Return settings as nested dictionaries, with the products that hold.

    Args:
        settings: of the file.
        products: that hold, also those that were made on the pages.
    """
    return {
        **asdict(settings),
        "products": {name: asdict(product) for name, product in list(products.items())},
    }


def mask_settings(values: object, name: str = "") -> object:
    """Return settings in the form of `station.yaml`, with secrets masked.

    Args:
        values: Nested settings, as `with_products` returns them: those that the file leaves out have their
            defaults. Or one value among them.
        name: Name of the setting that has these values; a secret is known by it. "": all settings.
    """
    if isinstance(values, Mapping):
        return _mask_section(values)
    if isinstance(values, list | tuple):
        return [mask_settings(item, name) for item in values]
    if not isinstance(values, str):
        return values
    if _SECRET_NAME.fullmatch(name):
        return MASK
    return redact_address(values) if "://" in values else values


def _mask_section(section: Mapping[str, object]) -> dict[str, object]:
    if section.keys() == _PLUGIN_FIELDS:
        return {str(section["name"]): mask_settings(section["values"])}
    found: dict[str, object] = {}
    for key, value in section.items():
        if callable(value):  # a plugin's function is no setting
            continue
        if key == "plugin":  # stands beside the settings of every sink
            assert isinstance(value, Mapping)
            found |= _mask_section(value)
            continue
        found[str(key)] = mask_settings(value, str(key))
    return found


def hash_settings(values: Mapping[str, object]) -> str:
    """Return the hash of nested settings, which changes with any of them, secrets among them."""
    hashes = json.dumps(hash_values(values), sort_keys=True)
    return hashlib.sha256(hashes.encode()).hexdigest()


def hash_values(values: Mapping[str, object]) -> dict[str, str]:
    """Return the short hash of each single setting by its path."""
    return {path: _hash_value(path, value) for path, value in flatten_settings(values)}


def _hash_value(path: str, value: object) -> str:
    return hashlib.sha256(f"{path}={value!r}".encode()).hexdigest()[:VALUE_DIGITS]


def flatten_settings(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield path and value of each single setting; a path is such as `products.plate.sinks.1.webhook`."""
    if isinstance(value, Mapping):
        items = {str(key): item for key, item in value.items()}
    elif isinstance(value, list | tuple):
        items = {str(place): item for place, item in enumerate(value, 1)}
    elif callable(value):  # a plugin's function is no setting
        return
    else:
        yield path, value
        return
    for key, item in items.items():
        below = f"{path}.{key}" if path else key
        if key in ("plugin", "values") and isinstance(item, Mapping):  # a plugin's stand below its name
            below = path
        yield from flatten_settings(item, below)
