"""Finds out which simulated defects a model detects. Torch-free.

The model's own rule decides: on pictures the threshold, on parts the part's rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from flawscope.artefact.model_facts import ONE, ModelFacts
from flawscope.artefact.model_file import Manifest
from flawscope.artefact.parts import parts_of_model
from flawscope.calibration.parts import KnownParts
from flawscope.calibration.power import SIMULATED_DEFECTS, DefectScores


def finder(facts: ModelFacts) -> Callable[[str, float], bool]:
    """Return the function that decides whether a model finds a defect that was put on a good picture.

    The function takes the name of the good picture and the score of the picture with the defect. It returns
    whether the picture (or its part, if the model decides on parts) is anomalous.

    Args:
        facts: Facts of a model of one product, or of the views of one product.
    """
    # ONE is the key of a model's only product
    parts = facts.known_parts().get(ONE)
    if parts is not None:
        return parts.is_found
    calibration = facts.manifests[ONE].calibration
    return lambda _, score: bool(calibration.is_anomalous(score))


def decided_defects(manifest: Manifest, parts: KnownParts | None = None) -> DefectScores | None:
    """Return the simulated defects that a model was tried with, decided by its present calibration.

    Args:
        manifest: Manifest of the model.
        parts: Good parts of the models of all views, if the model is of one view; None: the model's own good
            parts.

    Returns:
        The defects; None where none were tried. None, too, if the model decides on parts but does not know
        which pictures carried the defects, since an earlier version did not store them.
    """
    stored_defects = DefectScores.from_facts(manifest.facts)
    if stored_defects is None:
        return None
    defects = stored_defects.with_calibration(manifest.calibration, parts or parts_of_model(manifest))
    return defects if defects.is_decided else None


def with_decided_defects(manifest: Manifest) -> Manifest:
    """Return the manifest with new counts of found simulated defects, by its present calibration.

    The manifest is unchanged if `decided_defects` returns None.
    """
    defects = decided_defects(manifest)
    if defects is None:
        return manifest
    return replace(manifest, facts={**manifest.facts, SIMULATED_DEFECTS: defects.to_dict()})


def describe_found(manifest: Manifest) -> list[str]:
    """Return `fit`'s line on the simulated defects that a model finds; empty where too few were tried."""
    defects = decided_defects(manifest)
    if defects is None:
        return []
    total = defects.describe_total()
    if total is None:
        return []
    return [f"simulated defects found: {total}; real ones may be easier or harder to find"]


def describe_detection(manifest: Manifest, parts: KnownParts | None = None) -> str | None:
    """Return a line on the share of simulated defects that a model finds; None where it was not measured.

    Args:
        manifest: Manifest of the model.
        parts: Good parts of the models of all views, if the model is of one view; None: the model's own good
            parts.
    """
    defects = decided_defects(manifest, parts)
    if defects is None:
        return None
    line = defects.describe()
    if defects.precision != manifest.calibration.precision:
        line += f"; measured in {defects.precision}"
    return line
