"""What people corrected at two stations becomes one training set."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest

from flawscope.cli import main
from flawscope_station.client import Client
from station_helpers import NAME


@pytest.fixture
def line(open_station, tmp_path):
    """Two stations."""
    return [open_station(store=str(tmp_path / name)) for name in ("one", "two")]


def test_corrections_of_two_stations_are_one_set_with_hashes_as_names(line, parts, judged, tmp_path, capsys):
    good, anomalous = judged
    others = [one for one in parts if one not in judged]
    with Client(line[0].url) as one, Client(line[1].url) as two:
        false_alarm = one.inspect(anomalous, NAME)
        one.verdict(false_alarm.id, "good", product=NAME)
        same = two.inspect(anomalous, NAME)
        two.verdict(same.id, "good", product=NAME)
        missed = two.inspect(good, NAME)
        mask = np.zeros((missed.height, missed.width), bool)
        mask[4:9, 4:9] = True
        two.verdict(missed.id, "defect", mask, product=NAME, kind="scratch / deep")
        right = [two.inspect(part, NAME) for part in others]
        for inspection in right:
            verdict = "defect" if inspection.is_anomalous else "good"
            two.verdict(inspection.id, verdict, product=NAME)
    file, out = tmp_path / "stations.yaml", tmp_path / "set"
    file.write_text("stations:\n" + "".join(f"  - url: {one.url}\n" for one in line))
    words = ["station", "corrections", "--stations", str(file), "--out", str(out)]
    assert main(words) == 0
    names = {digest: hashlib.sha256(data).hexdigest() for digest, data in (("g", good), ("a", anomalous))}
    assert files_of(out) == {
        f"good/{names['a']}.png",
        f"bad/scratch-deep/{names['g']}.png",
        f"bad/scratch-deep/{names['g']}_mask.png",
    }
    with open(out / "corrections.csv", encoding="utf-8-sig", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["station"] for row in rows if names["a"] in row["file"]] == [one.url for one in line]
    assert "1 corrected pictures" in capsys.readouterr().out
    assert main(["data", "check", "--data", str(out / "pictures")]) == 0, "no word of it is a question"
    assert main(words) == 2, "nothing is overwritten"
    with Client(line[0].url) as one:
        missed = one.inspect(good, NAME, key="again")
        one.verdict(missed.id, "defect", product=NAME)
    with Client(line[1].url) as two:
        two.verdict(same.id, "defect", product=NAME)
    assert main([*words[:-1], str(tmp_path / "again")]) == 0
    assert files_of(tmp_path / "again") == {
        f"bad/scratch-deep/{names['g']}.png",
        f"bad/scratch-deep/{names['g']}_mask.png",
    }, "the other is a right decision there, and a correction here"


def files_of(out: Path) -> set[str]:
    pictures = out / "pictures"
    return {path.relative_to(pictures).as_posix() for path in pictures.rglob("*") if path.is_file()}
