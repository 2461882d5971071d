"""Fixtures that both floors need."""

from report_fixtures import *  # noqa: F403
