"""Reads options of the fit that made a model from the model. What needs numpy is loaded when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flawscope.artefact.model_file import Artefact
    from flawscope.calibration.parts import PartPattern
    from flawscope.calibration.threshold import Rate
    from flawscope.pictures.channels import Channels
    from flawscope.views.pose import Align
    from flawscope.views.roi import RoiSource


def region(model: Artefact) -> RoiSource | None:
    """Region of interest of a model; None: all of the picture counts."""
    from flawscope.artefact.region import stored_region

    return stored_region(model)


def light(model: Artefact) -> Rate | None:
    """Range of light in which a model keeps its rate; None: there is none."""
    learnt = model.manifest.preprocess.normalization
    return None if learnt is None else learnt.share


def align(model: Artefact) -> Align:
    """Way in which a model finds parts."""
    reference = model.manifest.preprocess.reference
    return "none" if reference is None else reference.kind


def several(model: Artefact) -> bool:
    """Whether pictures of a model show several parts."""
    return model.manifest.preprocess.several is not None


def channels(model: Artefact) -> str | Channels | None:
    """Channels that a model judges together; None: three."""
    return model.manifest.preprocess.channels


def scale_mm(model: Artefact) -> float | None:
    """Length of a pixel in millimetres; None: not known."""
    from flawscope.artefact.expected import ExpectedPictures

    return ExpectedPictures.from_facts(model.manifest.facts).mm_per_pixel


def category(model: Artefact) -> str | None:
    """Category that a model learnt; None: it has no name."""
    return model.manifest.category or None


def false_alarm_rate(model: Artefact) -> Rate:
    """Target rate of a model."""
    return model.manifest.calibration.rate


def _pattern(model: Artefact) -> PartPattern | None:
    from flawscope.artefact.parts import stored_part_pattern

    return stored_part_pattern(model.manifest)


def group(model: Artefact) -> str | None:
    """Pattern of a model's groups; None where it has none, or knows parts, which are groups by themselves."""
    found = model.manifest.facts.get("group")
    return None if found is None or _pattern(model) is not None else str(found)


def part(model: Artefact) -> str | None:
    """Pattern of a model's parts; None: it judges single pictures."""
    pattern = _pattern(model)
    return None if pattern is None else pattern.part


def view(model: Artefact) -> str | None:
    """Pattern of the views of a model's parts; None: it has none."""
    pattern = _pattern(model)
    return None if pattern is None else pattern.view


def samples(model: Artefact) -> int:
    """Number of pictures that a model keeps for its self-test."""
    return len(model.manifest.samples)


def looks(model: Artefact) -> bool:
    """Whether a model keeps small pictures of the good ones."""
    return model.manifest.keeps_looks
