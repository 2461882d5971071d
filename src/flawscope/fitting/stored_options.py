"""Reads from a model the options of the fit that made it, so that a new training keeps all of them."""

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
    """Return the arguments of `fit` that a fitted model stores, as name -> value.

    `min_defect` is left out: the tiles that were chosen by it are among the settings of the method. Seen
    defects are left out, too: a model stores only their hashes.

    Args:
        old: The fitted model.
        arguments: Record of the arguments.
    """
    return {option.argument: option.read(old) for option in records_of(arguments) if option.can_be_read}


def stored_arguments(old: Artefact, arguments: type[R]) -> R:
    """Return the arguments of a fitted model's fit; arguments that the model does not store have defaults."""
    return arguments(**stored_values(old, arguments))


def stored_settings(old: Artefact) -> PictureSettings:
    """Return the method's settings of a fitted model for a new fit.

    Settings that a fit derives from its options are reset to their defaults. The cap of the memory bank is
    reset to the value before updates raised it.
    """
    manifest = old.manifest
    config = {**manifest.config, **manifest.facts.get(CORRECTIONS, {})}
    settings: PictureSettings = registry.method(manifest.method).parse_stored(config)
    return replace(settings, masked=False, upright=False, hidden=False)


def refit_options(old: Artefact) -> dict[str, Any]:
    """Return arguments of `fit` for a model of other pictures with a fitted model's options and networks.

    Raises:
        InputError: The model undistorts its pictures, which `fit` no longer does.
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
