"""Tolerances: random rules and parts against a literal slow reading, what is never tolerated, and files."""

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flawscope.calibration.size_bounds import SizeBounds
from flawscope.errors import InputError
from flawscope.results.findings import describe_reasons, outside_light, wrong_count
from flawscope.results.prediction import Prediction, Region, ScoreLevels
from flawscope.results.tolerance import Rule, Tolerances, apply_tolerances
from flawscope.views.geometry import Geometry

HEIGHT, WIDTH = 12, 16
PLAIN = Geometry((HEIGHT, WIDTH), (HEIGHT, WIDTH), (1.0, 1.0), (0.0, 0.0), mm_per_pixel=0.1)
KINDS = ("scratch", "dent", "stain")


def region(box=(4, 4, 8, 6), kinds=("scratch",), **sizes):
    values = {"length_mm": 1.0, "width_mm": 0.5, "area_mm2": 0.5} | sizes
    bounds = {f"{name}_at_most": values[name] for name in ("length_mm", "width_mm", "area_mm2")}
    values = {"box_at_most": box, **bounds, **values}
    return Region(box, 8.0, 1.0, (6.0, 5.0), kinds, **values)


def rules(*given):
    return Tolerances("1", "0" * 64, (HEIGHT, WIDTH), given)


def literal(regions, given, picture):
    """Reads the rules word by word, pixel by pixel."""

    def covered(box):
        """Pixels of the box and their neighbours."""
        x0, y0, x1, y1 = box
        own = itertools.product(
            (x for x in range(-3, WIDTH + 4) if x + 1 > x0 and x < x1),
            (y for y in range(-3, HEIGHT + 4) if y + 1 > y0 and y < y1),
        )
        return {(x + dx, y + dy) for x, y in own for dx in (-1, 0, 1) for dy in (-1, 0, 1)}

    def says(rule, one, kind):
        if rule["kind"] != "any" and rule["kind"] != kind:
            return False
        for name in ("length_mm", "width_mm", "area_mm2"):
            limit, both = rule[name.partition("_")[0]], (getattr(one, name), getattr(one, f"{name}_at_most"))
            if limit is not None and (None in both or not max(both) <= limit):
                return False
        zone = rule["zone"]
        if isinstance(zone, tuple):
            x0, y0, x1, y1 = one.box_at_most
            return zone[0] < x0 and zone[1] < y0 and x1 < zone[2] and y1 < zone[3]
        if zone is not None:
            inside = {(x, y) for x in range(WIDTH) for y in range(HEIGHT) if zone[y, x]}
            return covered(one.box_at_most) <= inside
        return True

    def kinds_of(one):
        return (None,) if one.kinds is None else one.kinds

    def tolerates(rule, one, kind):
        crowd = [other for other in regions if any(says(rule, other, k) for k in kinds_of(other))]
        return says(rule, one, kind) and (rule["number"] is None or len(crowd) <= rule["number"])

    whole = {(x, y) for x in range(WIDTH) for y in range(HEIGHT)}
    return (
        bool(regions)
        and picture == (HEIGHT, WIDTH)
        and all(
            kinds_of(one)
            and covered(one.box_at_most) <= whole
            and all(any(tolerates(rule, one, kind) for rule in given) for kind in kinds_of(one))
            for one in regions
        )
    )


def draw_case(rng):
    """Few kinds, sizes and places, so that rules and regions meet often, also exactly at a limit."""

    def box():
        x, y = rng.choice((0, 1, 2, 4, 6.5)), rng.choice((0, 1, 2, 3, 4.5))
        return x, y, x + rng.choice((1, 3, 5, 9)), y + rng.choice((1, 2, 4, 7))

    def size():
        return rng.choice((0.5, 1.0, 1.0, 1.0000001, 2.0, None if rng.random() < 0.3 else 0.25))

    def mask():
        zone = np.zeros((HEIGHT, WIDTH), bool)
        zone[rng.choice((0, 0, 1)) :, rng.choice((0, 0, 2)) :] = True
        zone[rng.randrange(HEIGHT), rng.randrange(WIDTH)] = rng.random() < 0.7
        return zone

    kinds = (None, (), *(tuple(rng.sample(KINDS, k)) for k in (1, 1, 1, 1, 2, 3)))

    def sizes():
        """Sizes of a region, which may be larger and reach farther at times."""
        for name in ("length_mm", "width_mm", "area_mm2"):
            measured, more = size(), rng.choice((1, 1, 1, 2))
            yield from ((name, measured), (f"{name}_at_most", measured and more * measured))
        if rng.random() < 0.2:
            yield "box_at_most", (1, 1, 12, 10)

    regions = [
        region(box(), rng.choice(kinds), **dict(sizes())) for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 4)))
    ]
    given = []
    for _ in range(rng.randint(1, 5)):
        limits = {name: rng.choice((1.0, 2.0, 9.0, None)) for name in ("length", "width", "area")}
        if not any(limits.values()):
            limits["length"] = 2.0
        given.append(
            {
                "kind": rng.choice((*KINDS, "scratch", "any")),
                **limits,
                "zone": rng.choice((None, None, None, (0.0, 0.0, 16.0, 12.0), (1.0, 1.0, 13.0, 9.0), mask())),
                "number": rng.choice((None, None, 1, 2)),
            }
        )
    return regions, given, (HEIGHT, WIDTH) if rng.random() < 0.97 else (WIDTH, HEIGHT)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1 << 48))
def test_nothing_is_tolerated_but_what_the_rules_say(seed):
    """A hundred cases from each seed."""
    rng, answers = random.Random(seed), set()
    for _ in range(100):
        regions, given, picture = draw_case(rng)
        verdict = rules(*(Rule(**one) for one in given)).judge(regions, picture)
        assert verdict.within == literal(regions, given, picture), (regions, given, picture, verdict)
        assert describe_reasons(verdict.reasons)
        answers.add(verdict.within)
    assert answers == {True, False}  # both are tried


WIDE = Rule("any", length=1e9)


@pytest.mark.parametrize(
    ("regions", "said"),
    [
        ([], "nothing is marked"),
        ([region(kinds=())], "of a kind that is not known"),
        ([region(kinds=("scratch", "dent"))], "no rule for dent"),
        ([region(kinds=None)], "a region of a kind that is not known"),
        ([region(length_mm=None)], "size of a region is not known: say --scale-mm"),
        ([region(length_mm=float("nan"))], "scratch length nan mm > 2 mm"),
        ([region(length_mm=2.004)], "scratch length 2.004 mm > 2 mm"),
        ([region((0, 4, 3, 6))], "may reach, the border"),
        ([region((4, 4, float("nan"), 6))], "may reach, the border"),
        ([region(), region((9, 4, 12, 6))], "number of regions: 2, the rule for scratch holds for 1"),
    ],
)
def test_what_is_not_known_is_never_tolerated(regions, said):
    verdict = rules(Rule("scratch", length=2.0, number=1)).judge(regions, (HEIGHT, WIDTH))
    assert not verdict.within
    assert said in describe_reasons(verdict.reasons)


def prediction(*, at=(5, 6), **changes):
    values = np.zeros((HEIGHT, WIDTH), np.float32)
    values[at[0], at[1] : at[1] + 3] = 1
    made = Prediction(1.0, 0.1, 1.0, True, values, PLAIN, ScoreLevels(0.5, 0.5, (0.0, 1.0)))
    return replace(made, **changes)


EVERYWHERE = np.ones((HEIGHT, WIDTH), bool)


def test_a_tolerated_part_is_neither_good_nor_anomalous():
    found = apply_tolerances(prediction(), EVERYWHERE, rules(Rule("any", length=0.34)))
    assert (found.decision, found.is_anomalous, found.is_tolerated) == ("within tolerance", True, True)
    assert found.remark.startswith(
        "anomalous, within tolerance: region length 0.3 mm, may be up to 0.33 mm ≤ 0.34 mm (tolerances 1, 0"
    )
    assert found.to_dict()["decision"] == "within tolerance"
    assert found.to_dict()["findings"][0]["code"] == "within_tolerance"
    # what decides later is not tolerated
    assert found.noticing(wrong_count("3 of 4 parts", None)).decision == "anomalous"
    good = replace(prediction(), is_anomalous=False)
    assert apply_tolerances(good, EVERYWHERE, rules(WIDE)) is good


@pytest.mark.parametrize(
    ("found", "valid", "said"),
    [
        (prediction().noticing(wrong_count("3 of 4 parts", None)), EVERYWHERE, "something else was noticed"),
        (prediction().noticing(outside_light()), EVERYWHERE, "something else was noticed"),
        (prediction(at=(0, 6)), EVERYWHERE, "may reach, the edge of what is inspected"),
        (prediction(), EVERYWHERE & (np.arange(WIDTH) < 9), "may reach, the edge of what is inspected"),
        (prediction(geometry=replace(PLAIN, mm_per_pixel=None)), EVERYWHERE, "size of a region is not known"),
        (prediction(geometry=Geometry((24, 32), (12, 16), (0.5, 0.5), (0, 0))), EVERYWHERE, "32 x 24 pixels"),
        (prediction(map=np.zeros((HEIGHT, WIDTH), np.float32)), EVERYWHERE, "nothing is marked"),
    ],
)
def test_other_findings_and_edges_are_never_tolerated(found, valid, said):
    answer = apply_tolerances(found, valid, rules(WIDE))
    assert answer.decision == "anomalous"
    assert said in answer.remark


def with_tail(length, level, *, at=(5, 6), **changes):
    """A region of 3 pixels, and on its right as many more of a map of this level."""
    made = prediction(at=at, **changes)
    made.map[at[0], at[1] + 3 : at[1] + 3 + length] = level
    return made


@pytest.mark.parametrize(
    ("found", "limits", "said"),
    [
        # measured 0.3 mm each
        (with_tail(5, 0.3), {"length": 0.6}, "length 0.3 mm, may be up to 0.88 mm > 0.6 mm"),
        (with_tail(5, 0.3), {"length": 0.9}, ""),
        (with_tail(5, 0.2), {"length": 0.4}, ""),  # as on good pictures
        (with_tail(5, 0.3), {"area": 0.05}, "area 0.03 mm², may be up to 0.088 mm² > 0.05 mm²"),
        (with_tail(5, 0.3), {"width": 0.105}, "width 0.1 mm, may be up to 0.11 mm > 0.105 mm"),
        (with_tail(7, 0.3), {"length": 9}, "may reach, the edge of what is inspected"),
        (with_tail(5, 0.3), {"length": 9, "zone": (2, 2, 12, 10)}, "region reaches out of the zone"),
        (with_tail(5, 0.2), {"length": 9, "zone": (2, 2, 12, 10)}, ""),
        (with_tail(2, 0.2, size_bounds=SizeBounds(length=3)), {"length": 0.8}, "may be up to 0.9 mm > 0.8"),
        (with_tail(2, 0.2, size_bounds=SizeBounds(length=3)), {"length": 1}, ""),
    ],
)
def test_what_may_be_longer_is_not_tolerated(found, limits, said):
    answer = apply_tolerances(found, EVERYWHERE, rules(Rule("any", **limits)))
    assert answer.is_tolerated == (not said)
    assert said in answer.remark


def test_pieces_that_may_be_one_defect_are_measured_as_one():
    values = np.zeros((HEIGHT, WIDTH), np.float32)
    values[5, 2:14] = 0.3
    values[5, 2:4] = values[5, 11:14] = 1
    first, second = prediction(map=values).regions
    assert sorted((first.length_mm, second.length_mm)) == pytest.approx([0.2, 0.3])
    for one in (first, second):
        assert one.length_mm_at_most == pytest.approx(1.1 * 1.2)
        assert one.to_dict()["length_mm_at_most"] == one.length_mm_at_most
    assert prediction(map=values, geometry=replace(PLAIN, mm_per_pixel=None)).regions[0].box_at_most is None


FILE = """
version: 3
picture: [16, 12]
rules:
  - {kind: scratch, length: 2, width: 0.2, zone: [0, 0, 16, 6], number: 2}
  - {kind: any, area: 0.05, zone: zone.png}
"""


def write(folder, text):
    (folder / "tolerances.yaml").write_text(text, encoding="utf-8")
    return folder / "tolerances.yaml"


def test_a_file_is_known_by_its_version_and_its_content(tmp_path):
    zone = np.zeros((HEIGHT, WIDTH), np.uint8)
    zone[2:] = 255
    zone[3] = 200  # another class of the mask
    Image.fromarray(zone).save(tmp_path / "zone.png")
    found = Tolerances.read(write(tmp_path, FILE))
    scratch, every = found.rules
    assert (found.version, found.picture) == ("3", (HEIGHT, WIDTH))
    for version in ("1.10", "007", "2026-11-29", "no"):
        assert (
            Tolerances.read(write(tmp_path, FILE.replace("version: 3", f"version: {version}"))).version
            == version
        )
    assert vars(scratch) == vars(Rule("scratch", length=2, width=0.2, zone=(0, 0, 16, 6), number=2))
    np.testing.assert_array_equal(every.zone, zone > 0)
    zone[11, 3] = 0
    Image.fromarray(zone).save(tmp_path / "zone.png")
    assert Tolerances.read(tmp_path / "tolerances.yaml").sha256 != found.sha256
    assert Tolerances.read(write(tmp_path, FILE + "# \n")).sha256 != found.sha256


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("version: 3\n", ""), "has no version: write a whole number, or a text"),
        (("picture: [16, 12]\n", ""), r"has no picture: write \[width, height\]"),
        (("length: 2,", "length: 2 mm,"), "rule 1: length is '2 mm': .* without its unit, such as 0.5"),
        (("length: 2,", 'length: "1,000",'), "rule 1: length is '1,000': write a number"),
        (("[0, 0, 16, 6]", "[0, 0, 16, 300]"), "rule 1: zone is .* leaves the picture, which has 16 x"),
        (("version: 3", 'version: "3\\n4"'), r"version is '3\\n4': write a whole number, or a text"),
        (("version: 3", f"version: {'3' * 101}"), "version is '3{59}: write a whole number"),
        (("[0, 0, 16, 6]", f"[0, 0, 0x{'f' * 5000}, 6]"), "rule 1: zone is"),
        (("number: 2", "number: 12:30"), "rule 1: number is '12:30'"),
        (("kind: scratch,", 'kind: "\\e[31mscratch",'), r"rule 1: kind is '\\x1b\[31mscratch': name the"),
        (("[16, 12]", "[16]"), r"picture is \['16'\]: write \[width, height\]"),
        (("length: 2,", "length: 2, length: 9,"), "length stands twice, line 5"),
        (("length: 2,", "lengthx: 2,"), "rule 1: unknown key 'lengthx'; did you mean length"),
        (("length: 2,", "length: -2,"), "rule 1: length is '-2': write a number of mm above 0"),
        (("length: 2,", "length: .inf,"), "rule 1: length is '.inf'"),
        (("length: 2,", "length: yes,"), "rule 1: length is 'yes'"),
        (("length: 2, width: 0.2, ", ""), "rule 1 has no limit: write length, width or area"),
        (("kind: scratch, ", ""), "rule 1: kind is None: name the kind, or write any"),
        (("number: 2", "number: 0"), "rule 1: number is '0'"),
        (("[0, 0, 16, 6]", "[9, 0, 3, 6]"), "rule 1: zone is"),
        (("[0, 0, 16, 6]", "[0, 0, 1, 0.5]"), "rule 1: zone is .* in pixels of the picture"),  # shares
        (("[0, 0, 16, 6]", "[16, 0, 32, 6]"), "rule 1: zone is"),
        (("zone: zone.png", "zone: gone.png"), "gone.png"),
        (("zone: zone.png", "zone: black.png"), "rule 2: nothing in black.png is white"),
        (("zone: zone.png", "zone: small.png"), "rule 2: small.png is not as large as the pictures"),
        (("  - {kind: scratch", "  - {kind: [scratch"), "is not YAML"),
        (("rules:", "rules: []\nother:"), "unknown key 'other'"),
    ],
)
def test_a_rule_that_is_not_clear_is_refused(tmp_path, change, said):
    Image.new("L", (WIDTH, HEIGHT), 255).save(tmp_path / "zone.png")
    Image.new("L", (4, 4), 255).save(tmp_path / "small.png")
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "black.png")
    with pytest.raises(InputError, match=said) as error:
        Tolerances.read(write(tmp_path, FILE.replace(*change)))
    assert "\n" not in str(error.value)


def test_a_decimal_comma_is_a_point(tmp_path):
    Image.new("L", (WIDTH, HEIGHT), 255).save(tmp_path / "zone.png")
    text = FILE.replace("length: 2, width: 0.2,", 'length: "2,5", width: "0,2",')
    first = Tolerances.read(write(tmp_path, text)).rules[0]
    assert (first.length, first.width) == (2.5, 0.2)
    text = FILE.replace("area: 0.05, zone: zone.png}", "area: 1}\n  - kind: any\n    length: 0,5")
    assert Tolerances.read(write(tmp_path, text)).rules[2].length == 0.5


def test_a_file_without_rules_or_at_all_is_refused(tmp_path):
    with pytest.raises(InputError, match="name a file of tolerances"):
        Tolerances.read(tmp_path / "gone.yaml")
    empty = "version: 1\npicture: [16, 12]\nrules: []\n"
    for text, said in ((empty, "has no rules"), ("- 1\n", "is no list of `key: value`")):
        with pytest.raises(InputError, match=said):
            Tolerances.read(write(tmp_path, text))
