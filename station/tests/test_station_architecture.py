"""The packages of the station and the line: who may import whom. docs/architecture.md tells it in words."""

from pathlib import Path

import pytest

import flawscope
import flawscope_station
from import_graph import circle, imported_by, inner_arrows, modules_of, packages_of

ROOT = Path(flawscope_station.__file__).parent
HOUSES = (ROOT, Path(__file__).parents[2] / "line/src/flawscope_line")


@pytest.mark.parametrize(
    ("root", "package"), [(root, package) for root in HOUSES for package in packages_of(root)]
)
def test_no_package_has_a_circle(root, package):
    assert not circle(inner_arrows(root, package))


def test_the_library_does_not_know_the_station_nor_the_station_the_line():
    """They find what stands above them by entry points."""
    library = Path(flawscope.__file__).parent
    for root, above in ((library, ("flawscope_station", "flawscope_line")), (ROOT, ("flawscope_line",))):
        for path in modules_of(root).values():
            assert not [name for name in imported_by(path) if name.split(".")[0] in above], path


def test_plugins_import_one_module_of_the_station():
    for path in modules_of(HOUSES[1]).values():
        names = {name for name in imported_by(path) if name.split(".")[0] == "flawscope_station"}
        assert all(name.startswith("flawscope_station.plugins") for name in names), path
