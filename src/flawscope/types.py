"""Names types that all packages share. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from numpy.typing import NDArray

# Object of JSON, read or to be written: the values are of JSON's types
Json: TypeAlias = dict[str, Any]
Facts: TypeAlias = Mapping[str, Any]  # object of JSON that is only read
# Array whose number type does not matter, or is known only at run time
Array: TypeAlias = NDArray[Any]
