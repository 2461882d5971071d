"""Fixtures of PRN, which this folder and tests/whole/methods/training/prnet share."""

from prnet_fixtures import *  # noqa: F403
