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
from flawscope_station.core.metrics import Metrics
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
    """Return the station's component of a class."""
    instance: T = request.app.state.components[kind]
    return instance


def component(kind: type[T]) -> object:
    """Make the FastAPI dependency that returns the station's component of a class."""

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
    """Return the number of the product in the path. NotFoundError."""
    return addresses.product_id(name)


async def _records_id(name: str, addresses: AddressesDep) -> int:
    """Return the number of the product in the path, also of a removed one. NotFoundError."""
    if name in addresses:  # it was not removed
        return addresses.product_id(name)
    return await anyio.to_thread.run_sync(addresses.records_id, name)


ProductId = Annotated[int, Depends(_product_id)]
RecordsId = Annotated[int, Depends(_records_id)]  # for routes that read records, which a removed product has
