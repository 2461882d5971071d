"""Import this for what fits and served stations need, which takes seconds."""

import flawscope_station.cli.serve
import flawscope_station.web.app  # noqa: F401
import forked_station  # noqa: F401
from flawscope.methods.features.backbone import import_timm

import_timm()
