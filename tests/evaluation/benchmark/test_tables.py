"""Means, deviations, averages and blanks, on documents with made-up figures."""

import csv
import io
import itertools
import re
import statistics

import numpy as np
import pytest

from flawscope.datasets.layouts import MVTEC, TEXTURES
from flawscope.evaluation.benchmark import tables
from flawscope.evaluation.benchmark.grid import Cell, Grid
from flawscope.evaluation.benchmark.markdown import render
from flawscope.evaluation.benchmark.tables import DATA_SETS, METRICS, OTHER_METHOD, Figure, Group, Results
from flawscope.methods import registry

SOURCES = {source.id: source for source in tables.published_sources(registry.BUILT_IN)}
MACHINE = {"cpu": "a processor", "cores": 2, "memory_gib": 8.0, "system": "Linux"}


def cell(category, method, seed):
    return Cell(category, method, seed, {}, 0, {}, {"of": [category, method, seed]})


def document(value, **changed):
    return {
        "evaluation": {"metrics": dict.fromkeys(METRICS, value), "left_out": 0},
        "settings": {"size": "256+512", "seed": 0},
        "fit": {"seconds": 2.0, "resumed": False},
        "evaluate": {"seconds": 1.0},
        "peak_memory": 2**30,
        "skipped": [],
        "threads": 2,
        "jobs": 1,
        "device": "cpu",
        "machine": MACHINE,
        "versions": {"flawscope": "1"},
        **changed,
    }


def made(values, rows, failed=None, **grid):
    keys = [*values, *(failed or {})]
    methods = tuple(dict.fromkeys(method for _, method, _ in keys))
    seeds = tuple(sorted({seed for *_, seed in keys}))
    cells = tuple(cell(*key) for key in keys)
    return Results(
        Grid(rows, methods, dict.fromkeys(methods, seeds), cells, **grid),
        {cell(*key).name: document(value) for key, value in values.items()},
        {cell(*key).name: reason for key, reason in (failed or {}).items()},
    )


def lines_of(text, title):
    """A table's rows by their first word, as cells."""
    part = text.split(f"## {title[0].upper()}{title[1:]}\n")[1].split("\n## ")[0]
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in part.splitlines() if line[:1] == "|"]
    return {row[0].split(" ")[0].strip("*"): row[1:] for row in rows}


def test_averages_are_those_of_the_categories_and_deviations_those_of_the_seeds():
    rng = np.random.default_rng(0)
    table = rng.uniform(0.8, 1, (len(MVTEC), 3))
    keys = itertools.product(enumerate(MVTEC), range(3))
    results = made({(c, "patchcore", s): table[k, s] for (k, c), s in keys}, MVTEC)
    value = results.value("au_pro", "patchcore", "leather")
    assert value.mean == pytest.approx(table[2].mean())
    assert value.deviation == pytest.approx(table[2].std(ddof=1))
    groups = {group.label: results.average("au_pro", "patchcore", group) for group in results.groups}
    assert set(groups) == {"textures", "objects", "all"}
    for label, part in (("textures", table[:5]), ("objects", table[5:]), ("all", table)):
        assert groups[label].mean == pytest.approx(part.mean())
        assert groups[label].deviation == pytest.approx(part.mean(0).std(ddof=1))
        assert groups[label].count == groups[label].of == len(part)
    row = lines_of(render(results), "AU-PRO")["all"]
    assert row[0] == f"{table.mean():.4f} ± {table.mean(0).std(ddof=1):.4f}"
    assert row[1] == "0.935ˢ"  # the paper's own mean, not that of the recalled column


def test_what_was_not_measured_is_blank_and_an_average_says_what_it_covers():
    values = {("tile", "patchcore", 0): 0.9, ("screw", "patchcore", 0): 0.7}
    results = made(values, MVTEC, missing=tuple(c for c in MVTEC if c not in ("tile", "screw")))
    text = render(results)
    rows = lines_of(text, "image AUROC")
    assert (rows["tile"][0], rows["carpet"][0]) == ("0.9000", "")
    assert (rows["textures"][0], rows["objects"][0]) == ("0.9000 (1 of 5)", "0.7000 (1 of 10)")
    assert rows["all"][0] == "0.8000 (2 of 15)"
    # published figures over the same categories: (0.989 + 0.970) / 2
    assert rows["those"][:2] == ["0.8000", f"{(0.989 + 0.970) / 2:.3f}"]
    assert "¹ Not in the data." in text
    assert "0.0000" not in text
    assert results.value("image_auroc", "patchcore", "carpet").mean is None


def test_published_columns_stand_beside_their_own_categories_and_say_what_they_lack():
    results = made({("carpet", "prnet", 0): 0.9}, TEXTURES)
    row = lines_of(render(results), "image AUROC")["textures"]
    assert row[1:] == [f"{(0.977 + 0.994 + 3) / 5:.3f}", "0.818 (1 of 5)"]
    results = made({("candle", "patchcore", 0): 0.9, ("pcb1", "patchcore", 0): 0.7}, ("candle", "pcb1"))
    assert results.sources == []
    text = render(results)
    assert "Published" not in text
    assert lines_of(text, "image AUROC")["all"] == ["0.8000"]
    both = made({("candle", "patchcore", 0): 0.9, ("wood", "patchcore", 0): 0.7}, ("wood", "candle"))
    assert lines_of(render(both), "image AUROC")["others"][0] == "0.9000"
    text = render(made({("carpet", "prnet", 0): 0.9}, TEXTURES)).split("Further ones")[1]
    assert re.search(r"^\| MuSc.*0\.9777ᴿ.*0\.9345ᴿ|^\| MuSc.*0\.9345ᴿ.*0\.9777ᴿ", text, re.M)
    assert "- MuSc: xrli-U/MuSc" in text


def test_failures_and_what_is_left_to_do_are_footnotes():
    values = {("tile", "patchcore", 0): 0.9, ("tile", "patchcore", 1): 0.8}
    failed = {("tile", "patchcore", 2): "no memory", ("wood", "patchcore", 0): "bad | pictures"}
    results = made(values, ("tile", "wood"), failed)
    rows, text = lines_of(render(results), "pixel AP"), render(results)
    assert rows["tile"][0] == f"0.8500 ± {np.std([0.9, 0.8], ddof=1):.4f} (2 of 3 seeds) ¹"
    assert rows["wood"][0] == "²"
    assert "¹ tile patchcore seed 2 failed: no memory." in text
    assert "² wood patchcore seed 0 failed: bad | pictures." in text
    assert "2 of 4 cells done, 2 failed" in text
    waiting = Results(results.grid, {}, {})
    assert "tile patchcore: seed 0, 1, 2 is not done yet." in render(waiting)
    assert lines_of(render(waiting), "pixel AP")["textures"][0] == ""


def test_an_average_of_seeds_takes_those_that_cover_all_its_categories():
    values = {("a", "patchcore", 0): 0.9, ("a", "patchcore", 1): 0.7, ("b", "patchcore", 0): 0.5}
    found = made(values, ("a", "b")).average("image_auroc", "patchcore", Group("all", ("a", "b")))
    assert found.mean == pytest.approx((0.8 + 0.5) / 2)
    assert found.deviation is None  # one seed covers both


def test_a_data_set_has_its_own_average_and_published_means_beside_it():
    rows = (*DATA_SETS["VisA"], *DATA_SETS["BTAD"], "wood", "mine")
    values = {(row, "efficientad", 0): 0.8 if row in DATA_SETS["VisA"] else 0.5 for row in rows}
    results = made(values, rows)
    text = render(results)
    found = lines_of(text, "image AUROC")
    assert [found[name][0] for name in ("VisA", "BTAD", "others")] == ["0.8000", "0.5000", "0.5000"]
    shown = [source.id for source in results.published_columns("image_auroc")]
    means = dict(zip(shown, found["VisA"][1:], strict=True))
    assert means.pop("efficientad-paper-s-visa") == "0.975ˢ"
    assert means.pop("efficientad-nelson-m-visa") == "0.982ᴿ"
    assert {means[name] for name in means if not name.endswith("-visa")} == {""}
    row = dict(zip(shown, found["all" if "all" in found else "textures"][1:], strict=True))
    assert {row[name] for name in row if name.endswith("-visa")} == {""}
    assert found["BTAD"][1:] == [""] * len(shown)
    assert {s.data_set for s in SOURCES.values() if not s.table} == {"MVTec AD"}  # "all 15 categories"
    without = made({("wood", "efficientad", 0): 0.5, ("candle", "efficientad", 0): 0.5}, ("wood", "candle"))
    assert {source.data_set for source in without.sources} == {"MVTec AD"}


def test_a_metric_that_cannot_be_computed_is_blank_with_the_reason():
    results = made({("wood", "patchcore", 0): None}, ("wood",))
    text = render(results)
    assert lines_of(text, "AU-PRO")["wood"][0] == "¹"
    assert "¹ wood: its test pictures do not give every metric" in text


def test_what_the_pixel_metrics_do_not_cover_is_a_footnote_of_theirs():
    results = made({("wood", "patchcore", 0): 0.9, ("tile", "patchcore", 0): 0.9}, ("tile", "wood"))
    name = cell("wood", "patchcore", 0).name
    done = dict(results.done)
    evaluation = {**done[name]["evaluation"], "remarks": ["11 of 12 defective pictures without a mask"]}
    done[name] = {**done[name], "evaluation": evaluation}
    text = render(Results(results.grid, done, {}))
    remark = "wood patchcore seed 0: 11 of 12 defective pictures without a mask."
    (note,) = re.findall(rf"^(.) {remark}", text, re.M)
    marked = [section for section in text.split("\n## ") if note in section.split("\n## Notes")[0][:2000]]
    titles = [section.splitlines()[0] for section in marked]
    assert ("AU-PRO" in titles, "Image AUROC" in titles) == (True, False)


def test_settings_times_and_machines_are_said():
    results = made({("wood", "patchcore", 0): 0.9, ("tile", "patchcore", 0): 0.9}, ("tile", "wood"))
    name = cell("wood", "patchcore", 0).name
    how = {"settings": {"size": "256"}, "fit": {"seconds": None, "resumed": True}, "skipped": ["x: bad"]}
    text = render(Results(results.grid, {**results.done, name: document(0.9, **how)}, {}))
    for said in (
        "- patchcore (wood): `size: 256`; all else as by default",
        "- patchcore (tile): as by default",
        "a processor, 2 cores, 8 GiB, Linux; computed on cpu; flawscope 1",
        "wood patchcore seed 0: 1 skipped or without mask: x: bad.",
        "that fit's time is not known",
    ):
        assert said in text
    rows = text.split("## Time and memory")[1].split("## ")[0].splitlines()
    times = next(line for line in rows if line.startswith("| tile")).strip("|").split("|")
    assert [c.strip() for c in times][2:5] == ["2.0 s", "1.0 s", "1.00 GiB"]


def test_the_csv_has_a_row_a_cell_and_no_zeros_for_what_is_missing(tmp_path):
    failed = {("tile", "patchcore", 1): "x, y"}
    results = made({("tile", "patchcore", 0): 0.5}, ("carpet", "tile"), failed, missing=("carpet",))
    rows = list(csv.DictReader(io.StringIO(results.to_csv())))
    states = [f"{row['category']} {row['seed']} {row['state']}" for row in rows]
    assert states == ["carpet 0 missing", "carpet 1 missing", "tile 0 done", "tile 1 failed"]
    assert (rows[2]["image_auroc"], rows[2]["peak_memory_mib"]) == ("0.5", "1024")
    assert rows[3]["image_auroc"] == rows[0]["image_auroc"] == ""
    assert rows[3]["reason"] == "x, y"


def test_figures_in_each_light_are_summed_over_the_seeds():
    results = made({("tile", "patchcore", seed): 0.9 for seed in (0, 1)}, ("tile",))
    assert "In other light" not in render(results)
    for seed, one in enumerate(results.done.values()):
        counts = {"good": 10, "false_alarms": seed, "defective": 8, "found": 7}
        one["evaluation"]["robustness"] = [{"name": name, **counts} for name in ("unchanged", "contrast 0.9")]
    assert lines_of(render(results), "In other light")["tile"] == ["patchcore", *["1 of 20, 14 of 16"] * 2]


def test_the_json_says_the_same():
    results = made({("tile", "patchcore", 0): 0.5}, ("carpet", "tile"), missing=("carpet",))
    found = results.to_dict()
    table = found["tables"]["image_auroc"]
    assert table["categories"]["tile"]["patchcore"]["mean"] == 0.5
    assert table["categories"]["carpet"]["patchcore"]["mean"] is None
    textures = table["averages"]["textures"]
    assert textures["patchcore"] == {"mean": 0.5, "deviation": None, "count": 1, "of": 5}
    assert textures["published"]["patchcore-paddle"]["count"] == 5
    assert (found["cells"][0]["state"], found["missing"]) == ("done", ["carpet"])


# ------------------------------- published figures were typed: their averages must be those that are printed


def test_every_figure_is_a_share_of_a_known_category_with_a_known_mark():
    assert len(SOURCES) > 10
    cells = SOURCES["patchcore-paper-10"].cells["image_auroc"]
    assert (cells["screw"], cells["bottle"]) == (Figure(0.970, "S"), Figure(1.0, "M"))  # a mark of its own
    for source in SOURCES.values():
        assert set(source.cells) | set(source.means) <= set(METRICS), source.id
        for cells in source.cells.values():
            assert set(cells) <= set(MVTEC), source.id
            for figure in (*cells.values(), *source.means.values()):
                assert 0.35 < figure.value <= 1, source.id
                assert figure.mark in tables.mark_meanings(), source.id
        assert source.source
        assert source.conditions


@pytest.mark.parametrize("name", SOURCES)
def test_a_complete_column_averages_to_the_mean_that_is_printed(name):
    source = SOURCES[name]
    for metric, cells in source.cells.items():
        if len(cells) < len(MVTEC) or metric not in source.means:
            continue
        mean = statistics.fmean(figure.value for figure in cells.values())
        # what recalled cells and a doubtful one allow; an exchanged or mistyped digit is larger
        within = 2e-3 if name == "prnet-paper" else 1e-3
        assert mean == pytest.approx(source.means[metric].value, abs=within), metric


def test_other_methods_stand_after_those_asked_for_and_never_as_a_column():
    found = tables.published_sources(["prnet"])
    others = [source for source in found if source.method == OTHER_METHOD]
    assert [s.method for s in found] == ["prnet"] * (len(found) - len(others)) + ["none"] * len(others)
    assert {"dinomaly-paper", "anomalydino-1", "musc", "rad"} <= {source.id for source in others}
    assert not any(source.table for source in others)
    # a column of ours would have to be an invention
    assert not any("pixel_f1" in {*s.cells, *s.means} for s in SOURCES.values() if s.method != OTHER_METHOD)
