"""The current settings as people and programs may see them: without secrets, and with a hash.

`redact_address` removes the parts of addresses that may be secret. Files with passwords are named, not read.
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
VALUE_DIGITS = 4  # hexadecimal digits of a value's hash: 16 bits, too few to get a password from
_SECRET_NAME = re.compile(r".*(password|passphrase|secret|token)")  # a plugin may have such settings
_PLUGIN_FIELDS = {"name", "values", "open"}  # fields of `ConfiguredPlugin`


def with_products(settings: Settings, products: Mapping[str, ProductSettings]) -> dict[str, object]:
    """Return settings as nested dictionaries, in which `products` replaces the products of the file.

    Args:
        settings: Settings of the file.
        products: Settings of the station's current products by name, also of those made on the pages.
    """
    values = asdict(settings)
    # `list` copies the items, because another thread may add a product meanwhile
    values["products"] = {name: asdict(product) for name, product in list(products.items())}
    return values


def mask_settings(values: object, name: str = "") -> object:
    """Return settings in the form of `station.yaml`, with secrets masked.

    Args:
        values: Nested settings, as `with_products` returns them, or the value of one setting.
        name: Name of the setting, such as `password`, which shows whether the value is a secret; "": the
            values are all settings.
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
    """Return a section with secrets masked; a plugin's settings stand under its name."""
    if section.keys() == _PLUGIN_FIELDS:
        return {str(section["name"]): mask_settings(section["values"])}
    masked: dict[str, object] = {}
    for key, value in section.items():
        if callable(value):  # a plugin's function is no setting
            continue
        if key == "plugin":  # in `station.yaml`, a sink's plugin stands among the sink's own settings
            assert isinstance(value, Mapping)
            masked |= _mask_section(value)
            continue
        masked[str(key)] = mask_settings(value, str(key))
    return masked


def hash_settings(values: Mapping[str, object]) -> str:
    """Return a hash of nested settings; it changes if any setting changes, even a secret one."""
    value_hashes = json.dumps(hash_values(values), sort_keys=True)
    return hashlib.sha256(value_hashes.encode()).hexdigest()


def hash_values(values: Mapping[str, object]) -> dict[str, str]:
    """Return the short hash of each setting, by the setting's path, such as `limits.queue`."""
    return {path: _hash_value(path, value) for path, value in flatten_settings(values)}


def _hash_value(path: str, value: object) -> str:
    return hashlib.sha256(f"{path}={value!r}".encode()).hexdigest()[:VALUE_DIGITS]


def flatten_settings(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield path and value of each setting that has no settings below it.

    Args:
        value: Nested settings, or a value among them.
        path: Path of `value`, such as `products.plate.sinks.1.webhook`; "": `value` is all settings.
    """
    if isinstance(value, Mapping):
        items = {str(key): item for key, item in value.items()}
    elif isinstance(value, list | tuple):
        items = {str(number): item for number, item in enumerate(value, 1)}
    elif callable(value):  # a plugin's function is no setting
        return
    else:
        yield path, value
        return
    for key, item in items.items():
        # `plugin` and `values` are fields of the program, not names of `station.yaml`
        is_plugin_field = key in ("plugin", "values") and isinstance(item, Mapping)
        if is_plugin_field:
            item_path = path
        elif path:
            item_path = f"{path}.{key}"
        else:
            item_path = key
        yield from flatten_settings(item, item_path)
