"""Facts that the next model keeps of the one that it is made from, by whatever way it is made. Torch-free."""

from __future__ import annotations

from typing import Any

from flawscope.artefact.model_file import CERTIFICATE_KEYS, QUESTIONS, RUN_FACTS, Manifest
from flawscope.calibration.outliers import SUSPECTS
from flawscope.calibration.power import SIMULATED_DEFECTS

# Facts that were measured of one model and hold for no other. All others are kept, so that nobody has to
# remember what people set: options of the fit, the scale, what was tried, bounds of sizes.
MEASURED_FACTS = (*RUN_FACTS, *CERTIFICATE_KEYS, QUESTIONS, SUSPECTS, SIMULATED_DEFECTS)


def carried_facts(old: Manifest | None) -> dict[str, Any]:
    """Returns the facts of a model that hold for the next one, too; None: there is no model before."""
    if old is None:
        return {}
    return {name: value for name, value in old.facts.items() if name not in MEASURED_FACTS}
