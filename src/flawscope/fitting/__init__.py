"""Fits models: pictures of good parts become a calibrated model.

Raises:
    InputError: It is imported without torch.
"""

from __future__ import annotations

from flawscope._lazy import lazy_names
from flawscope.errors import require_installed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from flawscope.fitting.auto import Choice as Choice
    from flawscope.fitting.auto import fit_auto as fit_auto
    from flawscope.fitting.candidate import make_candidate as make_candidate
    from flawscope.fitting.proposals import Recipe as Recipe
    from flawscope.fitting.simulated_defects import draw_defect_examples as draw_defect_examples
    from flawscope.fitting.view_models import fit as fit

require_installed("fitting", "torch", "timm", extras="train")

# Names for other packages, imported when they are first used (station/library-names.md)
__getattr__ = lazy_names(
    __name__,
    {
        "Choice": "auto",
        "Recipe": "proposals",
        "draw_defect_examples": "simulated_defects",
        "fit": "view_models",
        "fit_auto": "auto",
        "make_candidate": "candidate",
    },
)
