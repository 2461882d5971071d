"""Sources that take pictures by themselves: folders, video files, cameras. `source.Source` is their
contract."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from flawscope.errors import require_installed
from flawscope.station.settings.sources import DELETE, KEEP, CameraOf, FolderOf
from flawscope.station.settings.station import Limits, Product
from flawscope.station.sources.camera import Camera
from flawscope.station.sources.folder import FolderSource
from flawscope.station.sources.source import Line, Report, Share, Source, Submit
from flawscope.station.sources.video import Video
from flawscope.station.store.records import Store


def sources_of(
    products: Mapping[str, Product],
    numbers: Mapping[str, int],
    submit: Submit,
    report: Report,
    store: Store,
    limits: Limits,
) -> dict[str, list[Source]]:
    """Make the sources by product, in the order of the settings; none is started.

    Args:
        numbers: of the products in the store.

    Raises:
        InputError: PyAV is not installed, and a camera is named.
    """
    share = Share(limits)
    given = [one for product in products.values() for one in product.all_sources]
    if any(isinstance(one, CameraOf) for one in given):
        require_installed("a camera or a video file", "av", extras="station")
    # folders that pictures are moved to: no source takes them again
    apart = [one.then for one in given if isinstance(one, FolderOf) and one.then not in (KEEP, DELETE)]
    made: dict[str, list[Source]] = {}
    for name, product in products.items():
        line, count = Line(numbers[name], submit, report, store, share), Counter[type]()
        made[name] = []
        for one in product.all_sources:
            count[type(one)] += 1
            number = count[type(one)]
            if isinstance(one, FolderOf):
                made[name].append(FolderSource(line, one, number, apart))
            else:
                made[name].append((Video if one.is_video else Camera)(line, one, number))
    return made
