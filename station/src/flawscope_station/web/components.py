"""Components of a station as dependencies of routes.

Each route names those that it needs, and gets no others.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import anyio.to_thread
from fastapi import Depends, Request

from flawscope_station.access.authenticator import Access
from flawscope_station.core.connections import ConnectionContext
from flawscope_station.core.health import Health
from flawscope_station.core.live import Metrics
from flawscope_station.core.pauses import Pauses
from flawscope_station.core.queries import Overview, Records
from flawscope_station.inspecting.renderings import InspectionRenderer
from flawscope_station.settings.station import Settings
from flawscope_station.store.addresses import Addresses
from flawscope_station.store.database import Database
from flawscope_station.store.files import Files
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.records import Store

T = TypeVar("T")


def find_component(request: Request, kind: type[T]) -> T:
    """Return the component of the station that is of this class."""
    found: T = request.app.state.components[kind]
    return found


def component(kind: type[T]) -> object:
    """Make the dependency of a component of the station."""

    async def find(request: Request) -> T:  # async: FastAPI calls plain functions in another thread
        return find_component(request, kind)

    return Depends(find)


AccessDep = Annotated[Access, component(Access)]
AddressesDep = Annotated[Addresses, component(Addresses)]
DatabaseDep = Annotated[Database, component(Database)]
FilesDep = Annotated[Files, component(Files)]
ContextDep = Annotated[ConnectionContext, component(ConnectionContext)]
HealthDep = Annotated[Health, component(Health)]
MetricsDep = Annotated[Metrics, component(Metrics)]
PausesDep = Annotated[Pauses, component(Pauses)]
OverviewDep = Annotated[Overview, component(Overview)]
RecordsDep = Annotated[Records, component(Records)]
RendererDep = Annotated[InspectionRenderer, component(InspectionRenderer)]
SettingsDep = Annotated[Settings, component(Settings)]
StoreDep = Annotated[Store, component(Store)]
VersionsDep = Annotated[ModelRegistry, component(ModelRegistry)]


async def _product_id(name: str, addresses: AddressesDep) -> int:
    return addresses.product_id(name)


async def _records_id(name: str, addresses: AddressesDep) -> int:
    if name in addresses:
        return addresses.product_id(name)
    return await anyio.to_thread.run_sync(addresses.records_id, name)


ProductId = Annotated[int, Depends(_product_id)]
RecordsId = Annotated[int, Depends(_records_id)]  # of a product whose records are read: also of a removed one
