"""Fixtures of EfficientAD, which this folder and tests/whole/methods/training/efficientad share."""

from efficientad_fixtures import *  # noqa: F403
