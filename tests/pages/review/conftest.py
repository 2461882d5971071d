"""Fixtures of unit and end-to-end tests."""

from review_fixtures import *  # noqa: F403
