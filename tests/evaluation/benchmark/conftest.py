"""Fixtures of unit and end-to-end tests."""

from benchmark_fixtures import *  # noqa: F403
