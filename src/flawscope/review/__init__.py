"""A person sorts flagged pictures into good and defective; the decisions become folders to fit with."""

from flawscope.review.decisions import DEFECT, FINE, UNDONE, Decisions
from flawscope.review.flagged import Flagged, read_flagged
from flawscope.review.folders import Folders
from flawscope.review.session import Session

__all__ = [
    "DEFECT",
    "FINE",
    "UNDONE",
    "Decisions",
    "Flagged",
    "Folders",
    "Session",
    "read_flagged",
]
