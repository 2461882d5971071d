"""Fixtures of unit and end-to-end tests."""

from report_fixtures import *  # noqa: F403
