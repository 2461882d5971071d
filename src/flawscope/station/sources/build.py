"""The sources of a station, made from its settings."""

from __future__ import annotations

from collections.abc import Mapping

from flawscope.errors import require_installed
from flawscope.station.settings.sources import DELETE, KEEP, CameraOf, FolderOf
from flawscope.station.settings.station import Limits, Product
from flawscope.station.sources.camera import Camera
from flawscope.station.sources.folder import FolderSource
from flawscope.station.sources.queue_quota import Share
from flawscope.station.sources.source import Line, Report, Source, Submit
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
    """By product, in the order of the settings; none is started.

    Args:
        numbers: of the products in the store.

    Raises:
        InputError: PyAV is not installed, and a camera is named.
    """
    share = Share(limits)
    if any(isinstance(one, CameraOf) for product in products.values() for one in product.all_sources):
        require_installed("a camera or a video file", "av", extras="station")
    given = [one for product in products.values() for one in product.all_sources]
    # what one folder's pictures are moved to is not looked into by another
    apart = [one.then for one in given if isinstance(one, FolderOf) and one.then not in (KEEP, DELETE)]
    made: dict[str, list[Source]] = {}
    for name, product in products.items():
        line = Line(numbers[name], submit, report, store, share)
        folders = cameras = 0
        made[name] = []
        for one in product.all_sources:
            if isinstance(one, FolderOf):
                folders += 1
                source = FolderSource(
                    line.product_id,
                    one.folder,
                    submit,
                    report,
                    store,
                    share,
                    then=one.then,
                    pattern=one.pattern,
                    number=folders,
                    apart=apart,
                )
                made[name].append(source)
            else:
                cameras += 1
                made[name].append((Video if one.is_video else Camera)(line, one, cameras))
    return made
