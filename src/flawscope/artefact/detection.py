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
    """Return the rule by which a model finds a defect on a good picture.

    The rule takes the picture's name and its score with the defect. It returns whether the picture, or its
    part, is anomalous.

    Args:
        facts: Facts of a model of one product, or of the views of one product.
    """
    parts = facts.known_parts().get(ONE)
    if parts is not None:
        return parts.is_found
    calibration = facts.manifests[ONE].calibration
    return lambda _, score: bool(calibration.is_anomalous(score))


def decided_defects(manifest: Manifest, parts: KnownParts | None = None) -> DefectScores | None:
    """Return the simulated defects that a model was tried with, decided by its present calibration.

    Args:
        manifest: Manifest of the model.
        parts: Good parts, where the model is of one view and decides together with other models; None: those
            of the model itself.

    Returns:
        None where no defects were tried, or where the model decides on parts and an earlier version did not
        store which pictures carried the defects.
    """
    stored = DefectScores.from_facts(manifest.facts)
    if stored is None:
        return None
    decided = stored.with_calibration(manifest.calibration, parts or parts_of_model(manifest))
    return decided if decided.is_decided else None


def with_decided_defects(manifest: Manifest) -> Manifest:
    """Return the manifest with the counts of simulated defects that its calibration finds."""
    decided = decided_defects(manifest)
    if decided is None:
        return manifest
    return replace(manifest, facts={**manifest.facts, SIMULATED_DEFECTS: decided.to_dict()})


def describe_found(manifest: Manifest) -> list[str]:
    """Return `fit`'s line on the simulated defects that a model finds; empty where too few were tried."""
    decided = decided_defects(manifest)
    total = None if decided is None else decided.describe_total()
    if total is None:
        return []
    return [f"simulated defects found: {total}; real ones may be easier or harder to find"]


def describe_detection(manifest: Manifest, parts: KnownParts | None = None) -> str | None:
    """Return a line on the share of simulated defects that a model finds; None where it was not measured.

    Args:
        manifest: Manifest of the model.
        parts: Good parts, where the model is of one view and decides together with other models; None: those
            of the model itself.
    """
    decided = decided_defects(manifest, parts)
    if decided is None:
        return None
    other = decided.precision != manifest.calibration.precision
    return f"{decided.describe()}{f'; measured in {decided.precision}' if other else ''}"
