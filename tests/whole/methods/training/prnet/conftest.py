"""Fixtures of PRN, which this folder and tests/methods/training/prnet share."""

from prnet_fixtures import *  # noqa: F403
