"""The packages in examples/, as if they were installed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flawscope.methods import registry

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What pip writes down about the module's `METHOD` lies on the path."""
    name = request.module.METHOD.name
    _, entries = (EXAMPLES / name / "pyproject.toml").read_text().split("[project.entry-points.", 1)
    folder = tmp_path_factory.mktemp("site") / f"flawscope_{name}-0.1.0.dist-info"
    folder.mkdir()
    (folder / "entry_points.txt").write_text("[" + entries.replace('"', ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder.parent)
        registry._installed.cache_clear()
        yield
    registry._installed.cache_clear()
    registry.method.cache_clear()
