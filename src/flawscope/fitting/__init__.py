"""From pictures of good parts to a calibrated model. InputError where it is imported without torch."""

from flawscope.errors import require_installed

require_installed("fitting", "torch", "timm", extras="train")
