"""Sources that take pictures by themselves: folders and cameras. `source.Source` is their contract."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial

from flawscope.errors import InputError, suggest_name
from flawscope_station.inspecting.memory import BusyError
from flawscope_station.inspecting.part_views import PartsCache
from flawscope_station.inspecting.picture import Part
from flawscope_station.inspecting.ticket import RecordedInspection
from flawscope_station.monitoring.background import STOP_TIMEOUT, GuardedThread, stop_all
from flawscope_station.settings.plugins import ConfiguredPlugin
from flawscope_station.settings.sources import KEEP, FolderSourceSettings
from flawscope_station.settings.station import Limits, ProductSettings
from flawscope_station.sources.camera import FfmpegCamera
from flawscope_station.sources.folder import FolderSource
from flawscope_station.sources.source import (
    QueueShare,
    ReportProblem,
    Source,
    SourceContext,
    Submit,
    TriggeredSource,
)
from flawscope_station.store.addresses import Addresses
from flawscope_station.store.records import NotFoundError


class Sources(dict[str, list[Source]]):
    """Sources by product, in the order of the settings.

    Args:
        submit: Queues a part for inspection.
        report: Reports a problem.
        addresses: Products and entries of the station.
        limits: Limits of the settings.
        refused: Gets the name of a product, and the error of a part of it that was not judged.
        check: Raises why no part of a product with a number is taken now (`Intake.check_standstill`).
        parts: Knows which products are judged in views.
    """

    def __init__(
        self,
        submit: Submit,
        report: ReportProblem,
        addresses: Addresses,
        limits: Limits,
        refused: Callable[[str, BaseException], object],
        check: Callable[[int, str | None], None],
        parts: PartsCache,
    ):
        super().__init__({name: [] for name in addresses.configured})
        self._check = check
        self._parts = parts
        self._addresses = addresses
        self._submit, self._report, self.share = submit, report, QueueShare(limits)
        self._refused = refused

    def start(self) -> None:
        """Make all sources, then start them.

        Raises:
            InputError: a camera is named, and PyAV is not installed; or a plugin cannot be used.
        """
        products = self._addresses.configured
        number = self._addresses.address_id
        excluded = _folders_moved_to(products.values())
        self.update(
            {
                name: self._make_sources(name, product, number(name), excluded)
                for name, product in products.items()
            }
        )
        for source in self._all_sources():
            source.start()

    @property
    def threads(self) -> list[GuardedThread]:
        """Threads of the sources; plugins may have none."""
        return [thread for source in self._all_sources() for thread in getattr(source, "threads", ())]

    def stop(self) -> None:
        """Stop all sources together; each has half a minute for it."""
        stop_all([source.stop for source in self._all_sources()], STOP_TIMEOUT + 5)  # which each has

    def _all_sources(self) -> list[Source]:
        return [source for sources in self.values() for source in sources]

    def _submit_reported(self, refused: Callable[..., object], part: Part) -> Future[RecordedInspection]:
        """Submit a part, and report a refusal. A part for which there is no room now waits."""
        refused = partial(refused, part=part.number, picture=part.pictures[0].name)
        try:
            answer = self._submit(part)
        except BusyError:
            raise
        except Exception as error:
            refused(error)
            raise
        answer.add_done_callback(lambda done: (error := done.exception()) and refused(error))
        return answer

    def _make_sources(
        self, name: str, product: ProductSettings, number: int, excluded: list[str]
    ) -> list[Source]:
        refused = partial(self._refused, name)
        submit = partial(self._submit_reported, refused)
        line = SourceContext(
            number,
            submit,
            self._report,
            self._addresses.store,
            self.share,
            refused,
            partial(self._check, number),
            self._parts,
            product.part_deadline,
        )
        counts = Counter[bool]()
        made: list[Source] = []
        shared: FolderSource | None = None  # whose folders show a view of each part
        for settings in product.all_sources:
            is_folder = isinstance(settings, FolderSourceSettings)
            counts[is_folder] += 1
            place = counts[is_folder]
            if isinstance(settings, ConfiguredPlugin):
                made.append(settings.open(line, settings.values, place))
            elif isinstance(settings, FolderSourceSettings):
                if shared is not None and settings.view is not None:
                    made.append(shared.add_folder(settings, place, excluded))
                    continue
                made.append(source := FolderSource(line, settings, place, excluded))
                shared = shared if settings.view is None else source
            else:
                made.append(FfmpegCamera(line, settings, place))
        return made


def _folders_moved_to(products: Iterable[ProductSettings]) -> list[str]:
    """Return the folders that pictures are moved to; no source takes pictures from them."""
    sources = [source for product in products for source in product.all_sources]
    return [
        source.then for source in sources if isinstance(source, FolderSourceSettings) and source.then != KEEP
    ]


def find_camera(name: str, sources: Sequence[Source], number: int | None = None) -> TriggeredSource:
    """Return a product's triggered camera by its number; None: the only one.

    Raises:
        InputError: the product has no camera, or several and no number is given.
        NotFoundError: it has no camera with this number.
    """
    cameras = {source.number: source for source in sources if isinstance(source, TriggeredSource)}
    if not cameras:
        raise InputError(f"{name} has no camera: write `- camera: ADDRESS` below its `sources`")
    if number is None and len(cameras) > 1:
        raise InputError(f"{name} has several cameras: name one of {', '.join(map(str, cameras))}")
    camera = cameras.get(next(iter(cameras)) if number is None else number)
    if camera is None:
        raise NotFoundError(
            f"{name} has no live camera {number}: {suggest_name(str(number), map(str, cameras))}"
        )
    return camera
