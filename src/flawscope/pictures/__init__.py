"""Picture files and masks, and the pixels that are read from them. Torch-free.

Everything seen of the pixels, such as parts and tiles, is in `flawscope.views`.
"""

from __future__ import annotations

from flawscope._lazy import lazy_names

# Names for other packages, imported when they are first used (station/library-names.md)
TYPE_CHECKING = False
if TYPE_CHECKING:
    from flawscope.pictures.channels import displayed as displayed
    from flawscope.pictures.decoding import PictureSource as PictureSource
    from flawscope.pictures.masks import read_mask as read_mask

__getattr__ = lazy_names(
    __name__, {"PictureSource": "decoding", "displayed": "channels", "read_mask": "masks"}
)
