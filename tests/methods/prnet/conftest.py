"""Fixtures of PRN, which this folder and tests/whole/methods/prnet share."""

from prnet_fixtures import *  # noqa: F403
