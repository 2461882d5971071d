"""Pictures are judged as they appear in a folder, and something can be done about the anomalous ones."""

from flawscope.watch.arrivals import Arrivals, judge
from flawscope.watch.commands import Commands

__all__ = ["Arrivals", "Commands", "judge"]
