"""Sources that take pictures by themselves: folders, video files, cameras. `source.Source` is their
contract."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from flawscope.errors import InputError, nearest, require_installed
from flawscope.station.settings.plugins import Plugged
from flawscope.station.settings.sources import DELETE, KEEP, CameraOf, FolderOf
from flawscope.station.settings.station import Limits, Product
from flawscope.station.sources.camera import Camera
from flawscope.station.sources.folder import FolderSource
from flawscope.station.sources.source import Line, Report, Share, Source, Submit, Triggered
from flawscope.station.sources.video import Video
from flawscope.station.store.records import NotFoundError, Store


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
        line, count = Line(numbers[name], submit, report, store, share), Counter[bool]()
        made[name] = []
        for one in product.all_sources:
            is_folder = isinstance(one, FolderOf)
            count[is_folder] += 1
            number = count[is_folder]
            if isinstance(one, Plugged):
                made[name].append(one.open(line, one.values, number))
            elif isinstance(one, FolderOf):
                made[name].append(FolderSource(line, one, number, apart))
            else:
                made[name].append((Video if one.is_video else Camera)(line, one, number))
    return made


def camera_of(name: str, sources: Sequence[Source], number: int | None = None) -> Triggered:
    """Return a product's camera that can be triggered, by its number; None: the only one. InputError,
    NotFoundError."""
    cameras = {one.number: one for one in sources if isinstance(one, Triggered)}
    if not cameras:
        raise InputError(f"{name} has no camera: write `- camera: ADDRESS` below its `sources`")
    if number is None and len(cameras) > 1:
        raise InputError(f"{name} has several cameras: name one of {', '.join(map(str, cameras))}")
    found = cameras.get(next(iter(cameras)) if number is None else number)
    if found is None:
        raise NotFoundError(f"{name} has no live camera {number}: {nearest(str(number), map(str, cameras))}")
    return found
