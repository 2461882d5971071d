"""Fixtures of stations, plugins, views and PLCs, which this folder and others share."""

import pickle
from importlib.util import find_spec

import pytest

from plc_helpers import play_fixture  # noqa: F401
from plugin_helpers import plugins_fixture, reels_fixture  # noqa: F401
from station_fixtures import *  # noqa: F403
from view_helpers import by_length_fixture, pair_model_fixture  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def address_space_made_once():
    """That of a server of OPC UA takes two seconds of the processor: later ones get copies of the first's."""
    if find_spec("asyncua") is None:
        yield
        return
    from asyncua.server.standard_address_space import standard_address_space

    fill, made = standard_address_space.fill_address_space, list[bytes]()

    def copied(service):
        if made:
            service._aspace._nodes = pickle.loads(made[0])
        else:
            fill(service)
            made.append(pickle.dumps(service._aspace._nodes))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standard_address_space, "fill_address_space", copied)
        yield
