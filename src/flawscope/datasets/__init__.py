"""Opens data sets on disk in any common layout, lists pictures, and checks for faults."""

from flawscope.datasets.dataset import Dataset, Item
from flawscope.datasets.layouts import find_categories, open_dataset
from flawscope.pictures.listing import list_pictures
from flawscope.pictures.units import group_numbers

__all__ = ["Dataset", "Item", "find_categories", "group_numbers", "list_pictures", "open_dataset"]
