"""A person sorts flagged pictures into good and defective; the decisions become folders to fit with."""

from flawscope.station.review.session import DEFECT, FINE, UNDONE, Decisions, Flagged, Session, read_flagged

__all__ = ["DEFECT", "FINE", "UNDONE", "Decisions", "Flagged", "Session", "read_flagged"]
