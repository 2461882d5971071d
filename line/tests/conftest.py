"""Fixtures of stations, plugins, views and PLCs, which this folder and others share."""

from plc_helpers import play_fixture  # noqa: F401
from plugin_helpers import plugins_fixture, reels_fixture  # noqa: F401
from station_fixtures import *  # noqa: F403
from view_helpers import by_length_fixture, pair_model_fixture  # noqa: F401
