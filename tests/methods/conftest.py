"""Fixtures of methods, which this folder and tests/whole/methods share."""

from methods_fixtures import *  # noqa: F403
