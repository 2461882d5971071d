"""Fixtures that both floors need."""

from review_fixtures import *  # noqa: F403
