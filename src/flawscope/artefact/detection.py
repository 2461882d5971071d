"""Says which simulated defects a model finds, decided as the model decides: on pictures by the threshold, on
parts by the part's rank. Torch-free.
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
    """Returns the rule by which a model finds a defect: whether a good picture of a name is anomalous, or its
    part is, where the picture has another score. facts: of a model of one product, or of the views of one.
    """
    parts = facts.known_parts().get(ONE)
    if parts is not None:
        return parts.is_found
    calibration = facts.manifests[ONE].calibration
    return lambda _, score: bool(calibration.is_anomalous(score))


def decided_defects(manifest: Manifest, parts: KnownParts | None = None) -> DefectScores | None:
    """Returns the simulated defects that a model was tried with, by its present calibration.

    Args:
        parts: good parts of a model of one view, which decides with others; None: the model's own.

    Returns:
        None: none were tried, or they are of an earlier version, which did not keep on which parts of a model
        of parts they were.
    """
    stored = DefectScores.from_facts(manifest.facts)
    if stored is None:
        return None
    decided = stored.with_calibration(manifest.calibration, parts or parts_of_model(manifest))
    return decided if decided.is_decided else None


def with_decided_defects(manifest: Manifest) -> Manifest:
    """Returns the manifest whose stored counts of simulated defects are those of its calibration."""
    decided = decided_defects(manifest)
    if decided is None:
        return manifest
    return replace(manifest, facts={**manifest.facts, SIMULATED_DEFECTS: decided.to_dict()})


def describe_found(manifest: Manifest) -> list[str]:
    """Line on the simulated defects that a model finds, as `fit` prints it; none: too few were tried."""
    decided = decided_defects(manifest)
    total = None if decided is None else decided.describe_total()
    if total is None:
        return []
    return [f"simulated defects found: {total}; real ones may be easier or harder to find"]


def describe_detection(manifest: Manifest, parts: KnownParts | None = None) -> str | None:
    """Describes the share of simulated defects that a model finds; None where it was not measured. parts: as
    `decided_defects` takes them.
    """
    decided = decided_defects(manifest, parts)
    if decided is None:
        return None
    other = decided.precision != manifest.calibration.precision
    return f"{decided.describe()}{f'; measured in {decided.precision}' if other else ''}"
