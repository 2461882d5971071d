"""Reads the options of a model's fit from the model. Functions import modules that need numpy when called."""

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
    """Return the region of interest of a model; None: the entire picture counts."""
    from flawscope.artefact.region import stored_region

    return stored_region(model)


def light(model: Artefact) -> Rate | None:
    """Return the range of light in which a model keeps its rate; None: only in the light of the fit."""
    normalization = model.manifest.preprocess.normalization
    return None if normalization is None else normalization.share


def align(model: Artefact) -> Align:
    """Return the way in which a model aligns parts; "none": it does not align them."""
    reference = model.manifest.preprocess.reference
    return "none" if reference is None else reference.kind


def several(model: Artefact) -> bool:
    """Whether pictures of a model show several parts."""
    return model.manifest.preprocess.several is not None


def channels(model: Artefact) -> str | Channels | None:
    """Return the groups of channels that a model judges together; None: pictures have three channels."""
    return model.manifest.preprocess.channels


def scale_mm(model: Artefact) -> float | None:
    """Return the side of a pixel in millimetres; None: the model does not know it."""
    from flawscope.artefact.expected import ExpectedPictures

    return ExpectedPictures.from_facts(model.manifest.facts).mm_per_pixel


def category(model: Artefact) -> str | None:
    """Return the category that a model learnt; None: it has no name."""
    return model.manifest.category or None


def false_alarm_rate(model: Artefact) -> Rate:
    """Return the target false-alarm rate of a model."""
    return model.manifest.calibration.rate


def _pattern(model: Artefact) -> PartPattern | None:
    """Return the patterns of a model's parts and views; None: it judges single pictures."""
    from flawscope.artefact.parts import stored_part_pattern

    return stored_part_pattern(model.manifest)


def group(model: Artefact) -> str | None:
    """Return the pattern of a model's groups; None: it has none, or has parts, which serve as groups."""
    group_pattern = model.manifest.facts.get("group")
    if group_pattern is None or _pattern(model) is not None:
        return None
    return str(group_pattern)


def part(model: Artefact) -> str | None:
    """Return the pattern of a model's parts; None: it judges single pictures."""
    pattern = _pattern(model)
    return None if pattern is None else pattern.part


def view(model: Artefact) -> str | None:
    """Return the pattern of the views of a model's parts; None: it has none."""
    pattern = _pattern(model)
    return None if pattern is None else pattern.view


def samples(model: Artefact) -> int:
    """Return the number of pictures that a model keeps for its self-test."""
    return len(model.manifest.samples)


def looks(model: Artefact) -> bool:
    """Whether a model keeps small pictures of the good pictures."""
    return model.manifest.keeps_looks
