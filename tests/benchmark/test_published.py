"""The published figures are data that were typed: their averages must be those that the sources print."""

from __future__ import annotations

import statistics

import pytest

from flawscope.benchmark import tables as published
from flawscope.benchmark.tables import METRICS
from flawscope.datasets.layouts import MVTEC
from flawscope.methods import registry

SOURCES = {source.id: source for source in published.sources(registry.BUILT_IN)}


def test_every_figure_is_a_share_of_a_known_category_with_a_known_mark() -> None:
    assert len(SOURCES) > 10
    for source in SOURCES.values():
        assert set(source.cells) | set(source.means) <= set(METRICS), source.id
        for cells in source.cells.values():
            assert set(cells) <= set(MVTEC), source.id
            for figure in (*cells.values(), *source.means.values()):
                assert 0.35 < figure.value <= 1, source.id
                assert figure.mark in published.marks(), source.id
        assert source.source
        assert source.conditions


@pytest.mark.parametrize("name", SOURCES)
def test_a_complete_column_averages_to_the_mean_that_is_printed(name: str) -> None:
    source = SOURCES[name]
    for metric, cells in source.cells.items():
        if len(cells) < len(MVTEC) or metric not in source.means:
            continue
        mean = statistics.fmean(figure.value for figure in cells.values())
        # what recalled cells and a doubtful one allow; an exchanged or mistyped digit is larger
        within = 2e-3 if name == "prnet-paper" else 1e-3
        assert mean == pytest.approx(source.means[metric].value, abs=within), metric


def test_no_source_of_our_methods_gives_a_pixel_f1() -> None:
    """A column would have to be an invention."""
    ours = [s for s in SOURCES.values() if s.method != published.OTHER]
    assert not any("pixel_f1" in {*s.cells, *s.means} for s in ours)


def test_single_figures_as_their_sources_print_them() -> None:
    paper, paddle = SOURCES["patchcore-paper-10"], SOURCES["patchcore-paddle"]
    assert paper.cells["image_auroc"]["screw"] == published.Figure(0.970, "S")
    assert paper.cells["image_auroc"]["bottle"] == published.Figure(1.0, "M")
    assert paddle.cells["au_pro"]["zipper"] == published.Figure(0.9550, "R")
    assert SOURCES["patchcore-anomalib"].cells["pixel_auroc"]["wood"] == published.Figure(0.933, "S")
    assert SOURCES["musc"].cells["au_pro"]["transistor"].value == pytest.approx(0.7721)


def test_other_methods_stand_after_those_asked_for_and_never_as_a_column() -> None:
    found = published.sources(["prnet"])
    others = [source for source in found if source.method == published.OTHER]
    assert [s.method for s in found] == ["prnet"] * (len(found) - len(others)) + ["none"] * len(others)
    assert {"dinomaly-paper", "anomalydino-1", "musc", "rad"} <= {source.id for source in others}
    assert not any(source.table for source in others)
