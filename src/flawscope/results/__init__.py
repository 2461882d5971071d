"""Holds what a model answers: predictions, drawings, tables and folders of them. Torch-free."""

from __future__ import annotations

from flawscope._lazy import lazy_names

# Names for other packages, imported when they are first used (station/library-names.md)
TYPE_CHECKING = False
if TYPE_CHECKING:
    from flawscope.results.found_parts import FoundParts as FoundParts
    from flawscope.results.found_parts import PartPose as PartPose

__getattr__ = lazy_names(__name__, {"FoundParts": "found_parts", "PartPose": "found_parts"})
