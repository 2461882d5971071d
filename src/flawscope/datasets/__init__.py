"""Opens data sets on disk in any common layout, and checks for faults."""

from flawscope.datasets.dataset import Dataset, Item
from flawscope.datasets.layouts import find_categories, open_dataset

__all__ = ["Dataset", "Item", "find_categories", "open_dataset"]
