"""What the tests of engines share."""

import pytest

from flawscope.runtime import ENGINES


@pytest.fixture(params=ENGINES)
def engine(request):
    """Every engine of exported models that is here."""
    return str(request.param)
