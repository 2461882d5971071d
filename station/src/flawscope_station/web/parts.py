"""Parts of a station as dependencies of routes: each route names those that it needs and gets no others."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from flawscope_station.access.authenticator import Access
from flawscope_station.core.connections import ConnectionContext
from flawscope_station.core.health import Health
from flawscope_station.core.live import Metrics
from flawscope_station.core.queries import Overview, Records
from flawscope_station.inspecting.renderings import InspectionRenderer
from flawscope_station.settings.station import Settings
from flawscope_station.store.addresses import Addresses
from flawscope_station.store.database import Database
from flawscope_station.store.files import Files
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.records import Store

T = TypeVar("T")


def find_part(request: Request, kind: type[T]) -> T:
    """Return the part of the station that is of this class."""
    part: T = request.app.state.parts[kind]
    return part


def part(kind: type[T]) -> Any:
    """Make the dependency of a part of the station."""

    async def find(request: Request) -> T:  # async: FastAPI calls plain functions in another thread
        return find_part(request, kind)

    return Depends(find)


AccessDep = Annotated[Access, part(Access)]
AddressesDep = Annotated[Addresses, part(Addresses)]
DatabaseDep = Annotated[Database, part(Database)]
FilesDep = Annotated[Files, part(Files)]
FloorDep = Annotated[ConnectionContext, part(ConnectionContext)]
HealthDep = Annotated[Health, part(Health)]
MetricsDep = Annotated[Metrics, part(Metrics)]
OverviewDep = Annotated[Overview, part(Overview)]
RecordsDep = Annotated[Records, part(Records)]
RendererDep = Annotated[InspectionRenderer, part(InspectionRenderer)]
SettingsDep = Annotated[Settings, part(Settings)]
StoreDep = Annotated[Store, part(Store)]
VersionsDep = Annotated[ModelRegistry, part(ModelRegistry)]


async def _product_id(name: str, addresses: AddressesDep) -> int:
    return addresses.product_id(name)


ProductId = Annotated[int, Depends(_product_id)]
