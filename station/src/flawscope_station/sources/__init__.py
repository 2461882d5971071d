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
        refused: Gets the name of a product, and the error of a part that was not judged; as keywords the
            number of the part and the name of a picture.
        check: Gets the number of a product, and that of a part or None. Raises an error if such parts are
            refused now (`Intake.check_standstill`).
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
        self._submit = submit
        self._report = report
        self.share = QueueShare(limits)
        self._refused = refused

    def start(self) -> None:
        """Make all sources, then start them.

        Raises:
            InputError: The settings have a camera, and PyAV is not installed; or a plugin cannot be used.
        """
        products = self._addresses.configured
        excluded = _folders_moved_to(products.values())
        sources_by_name = {
            name: self._make_sources(name, product, self._addresses.address_id(name), excluded)
            for name, product in products.items()
        }
        self.update(sources_by_name)  # only if all could be made: `stop` stops what is here
        for source in self._all_sources():
            source.start()

    @property
    def threads(self) -> list[GuardedThread]:
        """Threads of the sources; plugins may have none."""
        return [thread for source in self._all_sources() for thread in getattr(source, "threads", ())]

    def stop(self) -> None:
        """Stop all sources at the same time; each has half a minute for it."""
        # a little more than `STOP_TIMEOUT`, which each source keeps by itself
        stop_all([source.stop for source in self._all_sources()], STOP_TIMEOUT + 5)

    def _all_sources(self) -> list[Source]:
        return [source for sources in self.values() for source in sources]

    def _submit_reported(
        self, report_refusal: Callable[..., object], part: Part
    ) -> Future[RecordedInspection]:
        """Submit a part; a refusal is reported, whether it comes at once or as the answer.

        A BusyError is only raised, and not reported, as the caller submits the part again.

        Args:
            report_refusal: Function that gets the error, and the keywords `part`, the part's number, and
                `picture`, the name of its first picture.
            part: Part to submit.
        """
        report_refusal_of_part = partial(report_refusal, part=part.number, picture=part.pictures[0].name)

        def report_error(answer: Future[RecordedInspection]) -> None:
            error = answer.exception()
            if error is not None:
                report_refusal_of_part(error)

        try:
            answer = self._submit(part)
        except BusyError:
            raise
        except Exception as error:
            report_refusal_of_part(error)
            raise
        answer.add_done_callback(report_error)
        return answer

    def _make_sources(
        self, name: str, product: ProductSettings, number: int, excluded: list[str]
    ) -> list[Source]:
        report_refusal = partial(self._refused, name)
        submit = partial(self._submit_reported, report_refusal)
        context = SourceContext(
            product_id=number,
            submit=submit,
            report=self._report,
            store=self._addresses.store,
            share=self.share,
            refused=report_refusal,
            check=partial(self._check, number),
            parts=self._parts,
            part_seconds=product.part_deadline,
        )
        counts = Counter[bool]()  # by `is_folder`: folders and cameras are numbered apart
        sources: list[Source] = []
        shared_folder: FolderSource | None = None  # its folders each show a view of a part
        for settings in product.all_sources:
            is_folder = isinstance(settings, FolderSourceSettings)
            counts[is_folder] += 1
            place = counts[is_folder]
            if isinstance(settings, ConfiguredPlugin):
                sources.append(settings.open(context, settings.values, place))
            elif isinstance(settings, FolderSourceSettings):
                if shared_folder is not None and settings.view is not None:
                    sources.append(shared_folder.add_folder(settings, place, excluded))
                    continue
                source = FolderSource(context, settings, place, excluded)
                sources.append(source)
                if settings.view is not None:
                    shared_folder = source
            else:
                sources.append(FfmpegCamera(context, settings, place))
        return sources


def _folders_moved_to(products: Iterable[ProductSettings]) -> list[str]:
    """Return the folders to which inspected pictures are moved; sources must not read these folders."""
    sources = [source for product in products for source in product.all_sources]
    return [
        source.then for source in sources if isinstance(source, FolderSourceSettings) and source.then != KEEP
    ]


def find_camera(name: str, sources: Sequence[Source], number: int | None = None) -> TriggeredSource:
    """Return a product's triggered camera by its number; None: the only one.

    Raises:
        InputError: The product has no camera, or more than one and `number` is None.
        NotFoundError: The product has no camera with this number.
    """
    cameras = {source.number: source for source in sources if isinstance(source, TriggeredSource)}
    if not cameras:
        raise InputError(f"{name} has no camera: write `- camera: ADDRESS` below its `sources`")
    if number is None and len(cameras) > 1:
        raise InputError(f"{name} has several cameras: name one of {', '.join(map(str, cameras))}")
    if number is None:
        (only_camera,) = cameras.values()
        return only_camera
    camera = cameras.get(number)
    if camera is None:
        raise NotFoundError(
            f"{name} has no live camera {number}: {suggest_name(str(number), map(str, cameras))}"
        )
    return camera
