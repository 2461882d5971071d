"""What the fits in these tests share."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def one_backbone() -> Iterator[None]:
    """Building a backbone is most of the time of a fit this small; frozen, one can serve all models."""
    from flawscope.methods.patchcore import model as models

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_backbone", functools.cache(models.load_backbone))
        yield
