"""Options of the fit that made a model, read from the model itself: a training anew keeps all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from flawscope.artefact.model_file import Artefact
from flawscope.errors import InputError
from flawscope.fitting.update_evaluation import CORRECTIONS
from flawscope.methods import registry
from flawscope.methods.options.arguments import ARGUMENTS
from flawscope.methods.options.record import records_of
from flawscope.methods.settings import PictureSettings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")


def stored_values(old: Artefact, arguments: type[DataclassInstance]) -> dict[str, Any]:
    """Return the values of those of these arguments of `fit` that a fitted model keeps.

    The smallest defect is not among them, as the tiles that it chose are settings of the method, nor seen
    defects: a model knows their hashes alone.
    """
    return {option.argument: option.read(old) for option in records_of(arguments) if option.can_be_read}


def stored_arguments(old: Artefact, arguments: type[R]) -> R:
    """Return these arguments of `fit` with a fitted model's values; others have their defaults."""
    return arguments(**stored_values(old, arguments))


def stored_settings(old: Artefact) -> PictureSettings:
    """Return the method's settings of a fitted model for a new fit.

    Settings that a fit derives from its options are left out, and the cap of the memory bank is the one
    before updates raised it.
    """
    manifest = old.manifest
    config = {**manifest.config, **manifest.facts.get(CORRECTIONS, {})}
    settings: PictureSettings = registry.method(manifest.method).parse_stored(config)
    return replace(settings, masked=False, upright=False, hidden=False)


def refit_options(old: Artefact) -> dict[str, Any]:
    """Return arguments of `fit` that make a model like a fitted one from other pictures, with its networks.

    Raises:
        InputError: The model corrects its pictures in a way that no fit does any more.
    """
    if old.manifest.preprocess.undistort is not None:
        raise InputError(
            "the model undistorts its pictures, which fits do no longer: fit anew on pictures that the "
            "camera's SDK or OpenCV have undistorted"
        )
    options: dict[str, Any] = {
        "networks_of": old,
        "method": old.manifest.method,
        "settings": stored_settings(old),
    }
    for arguments in ARGUMENTS:
        options |= stored_values(old, arguments)
    return options
