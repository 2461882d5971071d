"""Totals of a run on a cluster are those of one process, and so is its exit code."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from flawscope.cli.output import fail_on_anomaly
from flawscope.cluster.listing import FileStore, TruncatedList
from flawscope.cluster.predict import _collect_results
from flawscope.cluster.shards import encode_shard, shard_path
from flawscope.results.table import table_columns

ROW = {"decision": "good", "severity": -1.0, "error": "", "shifts": [0.0] * 6}


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([{}, {}], 0),
        ([{}, {"beyond_promise": ["outside_light"]}], 4),
        ([{"beyond_promise": ["outside_light"]}, {"decision": "anomalous"}], 3),
    ],
)
def test_pictures_beyond_the_promise_are_counted(tmp_path, rows, code):
    store = FileStore(str(tmp_path))
    for number, row in enumerate(rows):
        store.write(shard_path(number), encode_shard([ROW | row], table_columns()))
    run = SimpleNamespace(shards=len(rows), listing=SimpleNamespace(beside=TruncatedList()))
    found = _collect_results(store, run, Mock(calibration=Mock(expected_rate=0.05)))
    assert found.totals.count == len(rows)
    assert fail_on_anomaly(0, found.totals) == code
    assert bool(found.totals.beyond_line()) == any("beyond_promise" in row for row in rows)
