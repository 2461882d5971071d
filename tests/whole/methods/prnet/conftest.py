"""Fixtures of PRN, which this folder and tests/methods/prnet share."""

from prnet_fixtures import *  # noqa: F403
