"""Tolerances at a station: a third decision, told apart everywhere, and rules that change meanwhile."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from PIL import Image

from brightness import draw, model
from flawscope import Prediction
from flawscope_station.challenge.challenge import Challenge, State
from flawscope_station.challenge.readiness import History, Instant
from flawscope_station.inspecting.tolerances import ProductTolerances
from flawscope_station.learning.candidate_plan import draw_good_pictures, read_verdicts
from flawscope_station.settings.station import ProductSettings, read_settings
from flawscope_station.store.database import Database, StoreError
from flawscope_station.store.open_models import NoModelError, ProductModel
from flawscope_station.store.records import TOLERANCES_EVENT, Store
from station_helpers import NAME, add_version, taken

WITHIN = "within tolerance"


def write(path: Path, version: int, length: float = 1e3, side: int = 32, more: str = "") -> Path:
    """A file of rules for square pictures."""
    rule = f"{{kind: any, length: {length}{more}}}"
    path.write_text(f"version: {version}\npicture: [{side}, {side}]\nrules: [{rule}]\n")
    return path


def test_other_rules_want_a_new_challenge():
    part: Any = SimpleNamespace(expected="anomalous", id=1)
    settings, challenge = (
        ProductSettings("none"),
        MagicMock(spec_set=["settings", "_hashed", "renderer", "runs_by"], runs_by=(None, "cpu")),
    )
    challenge.settings.return_value, challenge._hashed = settings, {1: (settings, "")}
    in_force = challenge.renderer.inspector.judge.tolerances.in_force
    in_force.side_effect = [None, {"sha256": "a"}, {"sha256": "b"}]
    state = State(History(Instant(0, 0.0)), {"d-1": part})
    assert len({Challenge._state_hash(challenge, 1, state) for _ in range(3)}) == 3


class Floor:
    """A product's rules, whose file is looked at by hand."""

    def __init__(self, database: Database, folder: Path):
        self.store, self.folder = Store(database), folder
        self.number = self.store.add_product(NAME)
        self.problem: str | None = None
        self.model = model().with_scale(0.1)
        self.spot = draw(folder / "spot.png", 0.9, spot=True)
        self.open()

    def open(self, **settings: Any) -> None:
        """Begin anew, as after a restart."""
        versions: Any = SimpleNamespace(active=lambda number: (1, self.model))
        self.rules = ProductTolerances(self.store, versions, self.report)
        given = {"tolerances": str(self.folder / "rules.yaml"), **settings}
        self.rules.add_product(self.number, NAME, ProductSettings("none", **given))

    def report(self, code: str, why: str | None) -> None:
        assert code == f"tolerances_{self.number}"
        self.problem = why or None

    def judge(self) -> tuple[Prediction, dict[str, str] | None]:
        product = ProductModel(self.number, 1, self.model)
        return self.rules.apply(product, self.model.predict(self.spot))

    def version(self) -> str | None:
        """Version of the rules that a part is judged by; its decision is theirs."""
        found, rules = self.judge()
        assert found.decision == ("anomalous" if rules is None else WITHIN)
        return rules and rules["version"]

    def look(self, times: int = 2) -> str | None:
        for _ in range(times):
            self.rules.check()
        return self.version()

    def events(self) -> list[str]:
        """What the audit says, the oldest first."""
        told = [event.text for event in self.store.events(TOLERANCES_EVENT, self.number)][::-1]
        return [one.partition(", SHA")[0].removeprefix("rules.yaml, ")[:12] for one in told]


@pytest.fixture
def floor(database, tmp_path):
    write(tmp_path / "rules.yaml", 1)
    return Floor(database, tmp_path)


def test_rules_that_change_are_in_force_when_two_looks_have_read_the_same(floor):
    assert floor.version() == "1", "from the first picture on"
    path = write(floor.folder / "rules.yaml", 2)
    assert floor.look(1) == "1", "somebody may be writing it"
    assert floor.look(1) == "2"
    write(path, 3)
    floor.rules.check()
    write(path, 4)
    assert floor.look(1) == "2", "two people: neither has been read twice"
    assert floor.look(1) == "4"
    status = path.stat()
    write(path, 5)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert floor.look() == "5", "its time is the same"
    assert floor.events() == [f"version {number}" for number in (1, 2, 4, 5)]
    floor.open()
    assert floor.look() == "5"
    assert len(floor.events()) == 4, "a restart changes nothing"


@pytest.mark.parametrize(
    "damage", ["gone", "not YAML", "rules: [", "version: 9\npicture: [1, 1]\nrules: []\n"]
)
def test_what_cannot_be_read_tolerates_nothing_until_it_is_mended(floor, damage):
    path = floor.folder / "rules.yaml"
    assert floor.look() == "1"
    assert floor.problem is None
    path.unlink() if damage == "gone" else path.write_text(damage)
    assert floor.look() is None
    assert "rules.yaml" in (floor.problem or "")
    assert (floor.problem or "").endswith("; nothing is tolerated")
    floor.open()
    assert floor.look() is None, "nor after a restart"
    write(path, 2)
    assert floor.look() == "2"
    assert floor.problem is None
    assert [one[:5] for one in floor.events()] == ["versi", "none:", "versi"]


def test_a_mask_is_a_part_of_the_rules(floor):
    mask = floor.folder / "zone.png"
    write(floor.folder / "rules.yaml", 2, more=", zone: zone.png")
    assert floor.look() is None, "it is not there"
    assert "zone.png" in (floor.problem or "")
    Image.new("L", (32, 32), 255).save(mask)
    assert floor.look() == "2", "though the rules' own file has not changed"
    before = floor.rules.in_force(floor.number)
    elsewhere = Image.new("L", (32, 32))
    elsewhere.putpixel((0, 0), 255)
    elsewhere.save(mask)
    floor.rules.check()
    floor.rules.check()
    found, rules = floor.judge()
    assert found.decision == "anomalous"
    assert rules not in (before, None)
    Image.new("L", (32, 32)).save(mask)
    assert floor.look() is None, "it holds nowhere"


def test_a_model_that_rules_cannot_be_applied_to_is_a_problem(floor):
    floor.model = model()
    assert floor.look() is None
    assert "--scale-mm" in (floor.problem or "")
    floor.model = floor.model.with_scale(0.1)
    assert floor.look() == "1"
    assert floor.problem is None
    write(floor.folder / "rules.yaml", 2).write_text(
        (floor.folder / "rules.yaml").read_text().replace("any", "scratch")
    )
    assert floor.look() is None
    assert "'scratch'" in (floor.problem or "")
    write(floor.folder / "rules.yaml", 3)
    assert floor.look() == "3"

    def closed(number: int) -> Any:
        raise NoModelError

    floor.rules.versions.active = closed
    floor.rules.check()
    assert floor.problem is None, "that is a problem of its own"


def test_nothing_is_in_force_that_is_not_recorded(floor, monkeypatch):
    def away(*words: Any) -> None:
        raise StoreError("away", "store_unreachable")

    assert floor.look() == "1"
    write(floor.folder / "rules.yaml", 2)
    with monkeypatch.context() as patch:
        patch.setattr(floor.store, "note_event", away)
        assert floor.look(5) == "1"
    assert floor.look() == "2"
    assert floor.events() == ["version 1", "version 2"]


def test_a_product_without_rules_tolerates_nothing(floor):
    floor.open(tolerances=None)
    assert floor.look() is None


def test_the_file_stands_beside_the_settings(settings, tmp_path):
    path = tmp_path / "station.yaml"
    path.write_text(f"products:\n  {NAME}: {{model: m.onnx, tolerances: rules.yaml}}\n")
    assert read_settings(path).products[NAME].tolerances == str(tmp_path / "rules.yaml")


def test_a_tolerated_part_is_never_learnt_as_good(database):
    product, version = add_version(database)
    store, flags = Store(database), [(False, False), (True, False), (True, True), (True, True)]
    new = [
        taken(product, version, picture=f"{k}" * 64, anomalous=bad, tolerated=tolerated)
        for k, (bad, tolerated) in enumerate(flags)
    ]
    passed, alarm, within, defect = (number for number, _ in store.record(new))
    for number in (alarm, within):
        store.add_verdict(product, number, "good", "anna")
    store.add_verdict(product, defect, "defect", "anna")
    with database.reading() as connection:
        found = read_verdicts(connection, product)
        assert [one.number for one in found.corrections] == [alarm]
        assert [one.number for one in found.usable_verdicts] == [alarm, defect], "a defect stays one"
        drawn = [row.id for row in draw_good_pictures(connection, product, 9, 0)]
    assert drawn == [passed, alarm]
