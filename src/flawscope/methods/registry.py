"""The available methods: flawscope's own, and those of installed packages. Torch-free.

A package adds methods through the entry point group `flawscope.methods`: name = "package.module:METHOD".
A model file only names its method, and cannot cause an import: the name must be listed here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from flawscope.config import setting_names
from flawscope.errors import InputError, one_line_message, suggest_name
from flawscope.methods.features.weights import PACKAGED, cached_in_hub
from flawscope.methods.method import Method
from flawscope.methods.settings import PictureSettings

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from flawscope.types import Json

GROUP = "flawscope.methods"
DEFAULT = "patchcore"
FEW = 10  # good pictures (`wants_accurate`)
BUILT_IN = {  # name -> the module that has its `METHOD`
    "patchcore": "flawscope.methods.patchcore.record",
    "efficientad": "flawscope.methods.training.efficientad.record",
    "prnet": "flawscope.methods.training.prnet.record",
}


@cache
def _installed() -> Mapping[str, EntryPoint]:
    from importlib import metadata  # a third of the time that the command line takes to start

    return {entry.name: entry for entry in metadata.entry_points(group=GROUP) if entry.name not in BUILT_IN}


def names() -> list[str]:
    """Return the names of all available methods, flawscope's own first."""
    return [*BUILT_IN, *sorted(_installed())]


@cache
def method(name: str) -> Method:
    """Return the method called `name`.

    Raises:
        InputError: There is no such method, or its package cannot be imported.
    """
    if name in BUILT_IN:
        found: Method = importlib.import_module(BUILT_IN[name]).METHOD
        return found
    entry = _installed().get(name)
    if entry is None:
        hint = suggest_name(str(name), names())
        raise InputError(
            f"no method called {name!s:.60}: {hint}; others come with packages of their own: install theirs"
        )
    try:
        found = entry.load()
    except Exception as error:
        reason = one_line_message(error)
        raise InputError(
            f"method {name} cannot be loaded from {entry.value} ({reason}): mend that package"
        ) from error
    if not isinstance(found, Method) or found.name != name or not issubclass(found.config, PictureSettings):
        raise InputError(f"{entry.value} is not a method called {name}: it must be a `Method` of that name")
    return found


def loadable_methods() -> list[Method]:
    """Return every method that can be loaded."""
    found = []
    for name in names():
        try:
            found.append(method(name))
        except InputError:  # reported when it is asked for
            continue
    return found


def default_method_name(name: str | None, preset: str) -> str:
    """Return the name of the method that a call means.

    It is `name` where it is given, else patchcore; if patchcore lacks the preset and a single other method
    has it, it is that method.
    """
    if name is not None or preset in method(DEFAULT).presets:
        return name or DEFAULT
    having = [method_class.name for method_class in loadable_methods() if preset in method_class.presets]
    return having[0] if len(having) == 1 else DEFAULT


def take_choices(settings: Json) -> tuple[str | None, str, str | int]:
    """Remove `method`, `preset` and `seen` from settings, and return them.

    A setting that is lacking, or has no value, has its default: None, default and 0.
    """
    method, preset, seen = (settings.pop(name, None) or None for name in ("method", "preset", "seen"))
    return method, preset or "default", seen or 0


def configure(
    method: Method, preset: str = "default", values: Mapping[str, object] | None = None
) -> PictureSettings:
    """Return the preset's settings of a method, overridden by `values`.

    Raises:
        InputError: A setting is wrong, or the method lacks it; then the error names the methods that have it.
    """
    for key in values or {}:
        if key not in setting_names(method.config):
            others = [
                method_class.name
                for method_class in loadable_methods()
                if key in setting_names(method_class.config)
            ]
            if others:
                raise InputError(f"{method.name} has no {key}: leave it out, or take {' or '.join(others)}")
    return method.configure(preset, values)


def wants_accurate(name: str, count: int) -> bool:
    """Whether good pictures are few, and the method has a preset `accurate`, which is then worth its time.

    Raises:
        InputError: There is no such method.
    """
    return 0 < count <= FEW and "accurate" in method(name).presets


def missing_package(name: str, preset: str) -> str:
    """Return the command that installs the weights that a preset needs and this machine lacks.

    It is empty if no weights are lacking.

    Raises:
        InputError: There is no such method or preset.
    """
    config = configure(method(name), preset)
    backbones = [getattr(config, key, None) for key in ("backbone", "second_backbone")]
    needed = [
        PACKAGED[backbone] for backbone in backbones if backbone in PACKAGED and not cached_in_hub(backbone)
    ]
    return next((package.install for package in needed if package.find() is None), "")
