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
FEW = 10  # number of good pictures up to which `wants_accurate` calls them few
BUILT_IN = {  # name -> the module that has its `METHOD`
    "patchcore": "flawscope.methods.patchcore.record",
    "efficientad": "flawscope.methods.training.efficientad.record",
    "prnet": "flawscope.methods.training.prnet.record",
}


@cache
def _installed() -> Mapping[str, EntryPoint]:
    """Return the methods of installed packages: name of the method -> its entry point."""
    from importlib import metadata  # imported late: a third of the time that the command line takes to start

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
        built_in: Method = importlib.import_module(BUILT_IN[name]).METHOD
        return built_in
    entry = _installed().get(name)
    if entry is None:
        hint = suggest_name(str(name), names())
        raise InputError(
            f"no method called {name!s:.60}: {hint}; others come with packages of their own: install theirs"
        )
    try:
        loaded = entry.load()
    except Exception as error:
        reason = one_line_message(error)
        raise InputError(
            f"method {name} cannot be loaded from {entry.value} ({reason}): mend that package"
        ) from error
    if (
        not isinstance(loaded, Method)
        or loaded.name != name
        or not issubclass(loaded.config, PictureSettings)
    ):
        raise InputError(f"{entry.value} is not a method called {name}: it must be a `Method` of that name")
    return loaded


def loadable_methods() -> list[Method]:
    """Return every method that can be loaded."""
    methods = []
    for name in names():
        try:
            methods.append(method(name))
        except InputError:  # reported when somebody names the method
            continue
    return methods


def default_method_name(name: str | None, preset: str) -> str:
    """Return the name of the method that a call means.

    Args:
        name: Name of the method in the call; None: the preset decides. The result is then patchcore or, if
            patchcore lacks the preset and exactly one other method has it, that method.
        preset: Name of the preset in the call.
    """
    if name is not None:
        return name or DEFAULT  # an empty name stands for the default
    if preset in method(DEFAULT).presets:
        return DEFAULT
    candidates = [candidate.name for candidate in loadable_methods() if preset in candidate.presets]
    return candidates[0] if len(candidates) == 1 else DEFAULT


def take_choices(settings: Json) -> tuple[str | None, str, str | int]:
    """Remove `method`, `preset` and `seen` from settings, and return their values.

    Where one is missing or has no value, the default is returned: None, "default" and 0.
    """
    method_name = settings.pop("method", None) or None
    preset = settings.pop("preset", None) or "default"
    seen = settings.pop("seen", None) or 0
    return method_name, preset, seen


def configure(
    method: Method, preset: str = "default", values: Mapping[str, object] | None = None
) -> PictureSettings:
    """Return the settings of a method's preset, overridden by `values`.

    Raises:
        InputError: A setting is wrong, or the method lacks it; then the error names the methods that have it.
    """
    for key in values or {}:
        if key in setting_names(method.config):
            continue
        alternatives = [other.name for other in loadable_methods() if key in setting_names(other.config)]
        if alternatives:
            raise InputError(f"{method.name} has no {key}: leave it out, or take {' or '.join(alternatives)}")
    return method.configure(preset, values)


def wants_accurate(name: str, count: int) -> bool:
    """Whether the preset `accurate` is worth its time: the method has it, and good pictures are few.

    Args:
        name: Name of the method.
        count: Number of good pictures; 0: unknown.

    Raises:
        InputError: There is no such method.
    """
    return 0 < count <= FEW and "accurate" in method(name).presets


def missing_package(name: str, preset: str) -> str:
    """Return the command that installs the weights that a preset needs and this machine lacks.

    The command is empty if no weights are missing.

    Raises:
        InputError: There is no such method or preset.
    """
    config = configure(method(name), preset)
    backbones = [getattr(config, key, None) for key in ("backbone", "second_backbone")]
    for backbone in backbones:
        if backbone not in PACKAGED or cached_in_hub(backbone):
            continue
        package = PACKAGED[backbone]
        if package.find() is None:
            return package.install
    return ""
