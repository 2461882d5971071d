"""Fixtures of EfficientAD, which this folder and tests/methods/training/efficientad share."""

from efficientad_fixtures import *  # noqa: F403
