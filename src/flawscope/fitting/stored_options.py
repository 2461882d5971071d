"""Options of the fit that made a model, read from the model itself: a training anew keeps all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.expected import SCALE
from flawscope.artefact.model_file import Artefact
from flawscope.artefact.parts import stored_part_pattern
from flawscope.errors import InputError
from flawscope.fitting.preparation import Reading, Seeing
from flawscope.fitting.update_evaluation import CORRECTIONS
from flawscope.methods import registry
from flawscope.methods.settings import PictureSettings
from flawscope.views.roi import FrameRegion


def stored_seeing(old: Artefact) -> Seeing:
    """Returns how the pictures of a fitted model are seen. The smallest defect is not among it: the tiles
    that it chose are settings of the method.

    Raises:
        InputError: the model corrects its pictures in a way that no fit does any more.
    """
    manifest, how = old.manifest, old.manifest.preprocess
    if how.undistort is not None:
        raise InputError(
            "the model undistorts its pictures, which fits do no longer: fit anew on pictures that the "
            "camera's SDK or OpenCV have undistorted"
        )
    return Seeing(
        roi=_stored_region(old),
        light=None if how.normalization is None else how.normalization.share,
        align="none" if how.reference is None else how.reference.kind,
        several=how.several is not None,
        channels=how.channels,
        scale_mm=manifest.facts.get(SCALE),
    )


def stored_reading(old: Artefact) -> Reading:
    """Returns how the pictures of a fitted model were chosen. Seen defects are not among them: a
    model knows their hashes alone."""
    manifest, part = old.manifest, stored_part_pattern(old.manifest)
    return Reading(
        category=manifest.category or None,
        false_alarm_rate=manifest.calibration.rate,
        group=manifest.facts.get("group") if part is None else None,  # parts are groups by themselves
        part=None if part is None else part.part,
        view=None if part is None else part.view,
        drop_suspects=bool(manifest.facts.get("drop_suspects")),
        force=bool(manifest.facts.get("force")),
    )


def stored_settings(old: Artefact) -> PictureSettings:
    """Returns the method's settings of a fitted model, without those that a fit derives from its options, and
    with the cap of its memory bank before updates raised it."""
    manifest = old.manifest
    config = {**manifest.config, **manifest.facts.get(CORRECTIONS, {})}
    settings: PictureSettings = registry.method(manifest.method).parse_stored(config)
    return replace(settings, masked=False, upright=False, hidden=False)


def refit_options(old: Artefact) -> dict[str, Any]:
    """Returns arguments of `fit` that make a model like a fitted one of other pictures, with its networks."""
    return {
        "networks_of": old,
        "method": old.manifest.method,
        "settings": stored_settings(old),
        "samples": len(old.manifest.samples),
        "looks": old.manifest.keeps_looks,
        **vars(stored_seeing(old)),
        **vars(stored_reading(old)),
    }


def _stored_region(old: Artefact) -> NDArray[np.bool_] | FrameRegion | None:
    """Region of interest as a mask of a frame of the preprocessing's `size`, which is seen pixel by pixel;
    None: all of the frame counts."""
    region = old.counted
    if region is None or region.all():
        return None
    how = old.manifest.preprocess.whole
    rows, columns = (
        slice((whole - seen + 1) // 2, (whole - seen + 1) // 2 + seen)  # as a crop takes the nearest pixels
        for whole, seen in zip(how.size, how.network_size, strict=True)
    )
    mask = np.zeros(how.size, dtype=np.bool_)
    mask[rows, columns] = region
    return mask if how.reference is None and not how.corrections else FrameRegion(mask, how.reference)
