"""Kinds of defects in everything that a command writes, and named by models of every sort."""

from pathlib import Path

import pytest

import flawscope
from flawscope.predictor.kinds import Example, learn_kinds
from flawscope.results.table import read_table
from kinds_helpers import KINDS, draw, labelled_fixture, named_fixture  # noqa: F401


def test_every_result_tells_kinds(named, labelled, tmp_path, answer):
    answer("predict", named, labelled / "test", "--out", tmp_path, "--quiet")
    rows = read_table(tmp_path / "results.csv")
    assert any(set(row.kinds.replace("; ", " or ").split(" or ")) & {*KINDS} for row in rows)
    assert all(len(row.kinds.split("; ")) == len(row.boxes) for row in rows if row.boxes)
    answer("info", named, "--verbose", printed="ink (5), notch (5), wire (5): an answer lacks the true kind")
    prediction = flawscope.load(named).predict(labelled / "test/notch/0.png")
    assert prediction.regions[0].kinds_text in prediction._repr_html_()


@pytest.mark.parametrize("method", ["efficientad_path", "tiled"])
def test_other_models_name_kinds(method, request):
    path, size = request.getfixturevalue(method), 96 if method == "efficientad_path" else 224
    model = flawscope.load(path if isinstance(path, Path) else path()).with_rate(0.9)
    rows = slice(32, 192) if method == "tiled" else slice(None)
    drawn = {kind: [draw(kind, k, size) for k in range(9)] for kind in ("ink", "wire")}
    examples = [Example(p[rows], kind, m[rows]) for kind, pairs in drawn.items() for p, m in pairs[:8]]
    if method != "tiled":  # it is hardly trained, and marks anything
        examples = [one._replace(mask=None) for one in examples]
    found = learn_kinds(model, examples)
    assert not found.failures
    for kind, pairs in drawn.items():
        strongest = found.model.predict(pairs[8][0][rows]).regions[0]
        assert strongest.kind_p_values.keys() == {"ink", "wire"}
        assert method != "tiled" or kind in strongest.kinds
