"""Facts that a new model keeps from the model that it is made from. Torch-free."""

from __future__ import annotations

from typing import Any

from flawscope.artefact.model_file import CERTIFICATE_KEYS, QUESTIONS, RUN_FACTS, Manifest
from flawscope.calibration.outliers import SUSPECTS
from flawscope.calibration.power import SIMULATED_DEFECTS

# Facts that were measured on one model and hold for no other. All other facts are kept without a list:
# options of the fit, the scale, the settings that were tried, bounds on sizes.
MEASURED_FACTS = (*RUN_FACTS, *CERTIFICATE_KEYS, QUESTIONS, SUSPECTS, SIMULATED_DEFECTS)


def carried_facts(old: Manifest | None) -> dict[str, Any]:
    """Return the facts of a model that also hold for a model made from it; empty for None."""
    if old is None:
        return {}
    return {name: value for name, value in old.facts.items() if name not in MEASURED_FACTS}
