"""Fixtures of stations, which this folder and others share."""

from station_fixtures import *  # noqa: F403
