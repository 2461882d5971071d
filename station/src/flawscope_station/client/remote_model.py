"""A station in the place of a model, for `flawscope predict --server`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from flawscope.errors import InputError
from flawscope_station.client import Client

if TYPE_CHECKING:
    from flawscope import Prediction
    from flawscope.pictures import PictureSource
    from flawscope_station.store.inspection import Inspection

MAX_CONCURRENCY = 4  # pictures sent to a station at a time


class RemoteModel:
    """Stands in for a model in `predict`: a station judges the pictures, and keeps them.

    Args:
        url: of the station.
        token: None: $FLAWSCOPE_TOKEN, if it is set.
        product: None: the only one, or that of the joint model which finds it.

    Attributes:
        rate: the largest target rate of false alarms of the products, 0..1.

    Raises:
        InputError: there is no such product, or several and none is named.
    """

    def __init__(self, url: str, token: str | None, product: str | None):
        self._client = Client(url, token=token)
        self._product, self.rate = _find_product(self._client, product)

    def __enter__(self) -> RemoteModel:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def stream(
        self, pictures: Iterable[PictureSource], *, batch: int | None = None
    ) -> Iterator[tuple[PictureSource, Prediction | InputError]]:
        """Yields each picture with the station's answer. batch: 1 where the next one waits for it."""
        workers = MAX_CONCURRENCY if batch is None else batch
        for source, found in self._client.inspect_many(pictures, self._product, workers):
            if isinstance(found, InputError):
                yield source, found
            else:  # it has everything that is printed and tabulated
                yield source, cast("Prediction", StationPrediction(found))


def _find_product(client: Client, name: str | None) -> tuple[str, float]:
    """Returns the name of the product, or of the joint model that finds it, and the largest target rate."""
    known = [one for one in client.products() if name in (None, one.name, one.found_at)]
    addresses = {name or one.found_at or one.name for one in known}
    if len(addresses) != 1:
        known = [client.product(name)]  # says which there are
        addresses = {known[0].name}
    return addresses.pop(), max(one.false_alarm_rate or 0.0 for one in known)


@dataclass(frozen=True)
class StationPrediction:
    """Wraps an inspection as a prediction, for printing; the fields are those that an inspection lacks."""

    inspection: Inspection
    path: str | None = None
    shifts: Sequence[float] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inspection, name)

    @property
    def product_name(self) -> str:
        """The product where it was recognised, or "none of these"; empty where it was asked for."""
        return self.shows or ""

    @property
    def parts(self) -> SimpleNamespace | None:
        """Search for parts, as a `Prediction` has it; its p-value is not known."""
        if self.part_found is None:
            return None
        answer = {"pose": self.part_pose, "several": self.found_parts}
        return SimpleNamespace(found=self.part_found, p_value=None, **answer)

    def to_dict(self) -> dict[str, Any]:
        """The record that `predict --json` prints."""
        return {
            **{name: getattr(self, name) for name in ("path", "score", "p_value", "severity", "decision")},
            **{name: getattr(self, name) for name in ("is_anomalous", "score_threshold")},
            "regions": [region.to_dict() for region in self.regions],
            **{name: getattr(self, name) for name in ("id", "product", "version")},
            **({"shows": self.shows, "product_p_value": self.product_p_value} if self.shows else {}),
            **({} if self.part_found is None else self._part()),
            **({"findings": [one.to_dict() for one in self.findings]} if self.findings else {}),
        }

    def _part(self) -> dict[str, Any]:
        if self.found_parts is not None:
            return {"part_found": self.part_found, "found_parts": self.found_parts.to_dict()}
        pose = None if self.part_pose is None else self.part_pose.to_dict()
        return {"part_found": self.part_found, "part_pose": pose}
