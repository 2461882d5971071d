"""Names types that all packages share. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from numpy.typing import NDArray

# an object of JSON, as it is read or is to be written: the values are of the kinds that its format names
Json: TypeAlias = dict[str, Any]
Facts: TypeAlias = Mapping[str, Any]  # the same, only read
# an array whose type of numbers does not matter, or is found out while the program runs
Array: TypeAlias = NDArray[Any]
