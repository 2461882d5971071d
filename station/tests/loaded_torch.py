"""Import this for what fits need, which takes seconds."""

import flawscope.fitting  # noqa: F401
from flawscope.methods.features.backbone import import_timm

import_timm()
