"""Fixtures of fits, which this folder and tests/whole/fitting share."""

from fitting_fixtures import *  # noqa: F403
