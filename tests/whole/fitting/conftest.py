"""Fixtures of fits, which this folder and tests/fitting share."""

from fitting_fixtures import *  # noqa: F403
