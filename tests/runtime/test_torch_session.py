from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from flawscope.artefact.model_file import read
from flawscope.errors import InputError
from flawscope.runtime import open_session

pytest.importorskip("torch")
PATH = "any.safetensors"


@pytest.fixture(scope="module")
def artefact(model_path):
    return read(model_path)


def test_numpy_in_and_out(artefact):
    session = open_session(artefact, PATH, device="cpu")
    images = np.random.default_rng(0).random((3, 3, *session.size), dtype=np.float32)
    scores, maps = session.run(images)
    assert (scores.shape, maps.shape) == ((3,), (3, *session.size))
    assert scores.dtype == maps.dtype == np.float32
    assert session.runtime == "torch"
    assert session.batch >= 1


def test_damaged_tensors_are_one_line(artefact):
    for name, change in {
        "views.0.bank": lambda t: t[:, :-1],
        "views.0.centre": lambda t: t[:-1],
        "roi": lambda t: t[:-1],
        "normal": lambda t: t[:, :-1],
    }.items():
        tensors = {**artefact.tensors, name: change(artefact.tensors[name])}
        with pytest.raises(InputError, match="fit anew") as error:
            open_session(replace(artefact, tensors=tensors), PATH, device="cpu")
        assert "\n" not in str(error.value)
    missing = {k: v for k, v in artefact.tensors.items() if k != "views.0.bank"}
    with pytest.raises(InputError, match=r"bank.*fit anew"):
        open_session(replace(artefact, tensors=missing), PATH, device="cpu")


def test_a_method_of_another_version_is_named(artefact):
    manifest = replace(artefact.manifest, method="crystalball")
    with pytest.raises(InputError, match="no method called crystalball"):
        open_session(replace(artefact, manifest=manifest), PATH, device="cpu")


def test_without_torch_the_remedy_is_told(artefact, monkeypatch):
    monkeypatch.setitem(sys.modules, "flawscope.runtime.torch", None)
    with pytest.raises(InputError, match="needs torch: pip install"):
        open_session(artefact, PATH, device="cpu")
