"""Fixtures that both floors need."""

from benchmark_fixtures import *  # noqa: F403
