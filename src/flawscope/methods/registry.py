"""The methods: name to module. The only place that lists them; a module is imported when it is used."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from flawscope.errors import InputError

# name -> package with `config.Config` (torch-free), `model.Model` (a Detector), `model.create`, `fit.fit`
METHODS: dict[str, str] = {
    "patchcore": "flawscope.methods.patchcore",
    "efficientad": "flawscope.methods.efficientad",
    "prnet": "flawscope.methods.prnet",
}


def _package(name: str) -> str:
    if name not in METHODS:
        raise InputError(f"no method called {name}: choose one of {', '.join(METHODS)}")
    return METHODS[name]


def config_class(name: str) -> type[Any]:
    """The method's typed configuration. Imports no torch."""
    config: type[Any] = importlib.import_module(f"{_package(name)}.config").Config
    return config


def presets(name: str) -> dict[str, dict[str, Any]]:
    """Named sets of configuration values. Imports no torch."""
    found: dict[str, dict[str, Any]] = importlib.import_module(f"{_package(name)}.config").PRESETS
    return found


def model_module(name: str) -> ModuleType:
    """The module that holds `Model`. Needs torch."""
    return importlib.import_module(f"{_package(name)}.model")


def size_module(name: str) -> ModuleType:
    """The module that holds `choose`, for `size=auto`. Needs torch."""
    return importlib.import_module(f"{_package(name)}.size")


def fit_module(name: str) -> ModuleType:
    """The module that holds `fit`. Needs torch."""
    return importlib.import_module(f"{_package(name)}.fit")
