"""Fits models: pictures of good parts become a calibrated model. InputError where imported without torch."""

from flawscope.errors import require_installed

require_installed("fitting", "torch", "timm", extras="train")
