"""Names that plugins import: sources, sinks, connections, pages (docs/adding-a-connection.md).

`flawscope_station.testing` checks their promises. PLC, Modbus, OPC UA and industrial cameras are such
plugins, of the package `flawscope_line`.
"""

from flawscope_station.core.connections import Connection as Connection
from flawscope_station.core.connections import ConnectionContext as ConnectionContext
from flawscope_station.core.plugin_pages import PageContext as PageContext
from flawscope_station.core.plugin_pages import PluginPage as PluginPage
from flawscope_station.inspecting.answers import check_room as check_room
from flawscope_station.inspecting.interlock import NotProductionError as NotProductionError
from flawscope_station.inspecting.interlock import NotReadyError as NotReadyError
from flawscope_station.inspecting.memory import BusyError as BusyError
from flawscope_station.inspecting.picture import Part as Part
from flawscope_station.inspecting.picture import Picture as Picture
from flawscope_station.inspecting.picture import TooLargeError as TooLargeError
from flawscope_station.inspecting.ticket import LateError as LateError
from flawscope_station.inspecting.ticket import ModelError as ModelError
from flawscope_station.inspecting.ticket import RecordedInspection as RecordedInspection
from flawscope_station.monitoring.background import CLOCK as CLOCK
from flawscope_station.monitoring.background import Backoff as Backoff
from flawscope_station.monitoring.background import GuardedThread as GuardedThread
from flawscope_station.monitoring.background import MonotonicClock as MonotonicClock
from flawscope_station.monitoring.problems import Problem as Problem
from flawscope_station.settings.plugins import Plugin as Plugin
from flawscope_station.settings.sources import EVERY_FRAME as EVERY_FRAME
from flawscope_station.settings.sources import ON_TRIGGER as ON_TRIGGER
from flawscope_station.settings.values import secret as secret
from flawscope_station.settings.values import time_of as time_of
from flawscope_station.sinks.delivery import Sink as Sink
from flawscope_station.sinks.delivery import UndeliveredError as UndeliveredError
from flawscope_station.sinks.outbox import INSPECTION as INSPECTION
from flawscope_station.sources.camera import CHECK_INTERVAL as CHECK_INTERVAL
from flawscope_station.sources.camera import LiveCamera as LiveCamera
from flawscope_station.sources.camera import Shot as Shot
from flawscope_station.sources.camera import Trigger as Trigger
from flawscope_station.sources.camera import why_refused as why_refused
from flawscope_station.sources.frames import CameraLostError as CameraLostError
from flawscope_station.sources.source import AWAY as AWAY
from flawscope_station.sources.source import FROZEN as FROZEN
from flawscope_station.sources.source import RUNNING as RUNNING
from flawscope_station.sources.source import AwayError as AwayError
from flawscope_station.sources.source import CameraFrozenError as CameraFrozenError
from flawscope_station.sources.source import NoFrameError as NoFrameError
from flawscope_station.sources.source import SourceContext as SourceContext
from flawscope_station.sources.source import State as State
from flawscope_station.sources.source import TriggeredSource as TriggeredSource
from flawscope_station.sources.source import lost_camera as lost_camera
from flawscope_station.sources.trigger import check_triggers as check_triggers
from flawscope_station.sources.trigger import shoot as shoot
from flawscope_station.store.database import StoreError as StoreError
from flawscope_station.store.database import now as now
from flawscope_station.store.inspection import Label as Label
from flawscope_station.store.inspection import RefusalError as RefusalError
from flawscope_station.store.inspection import RegionFacts as RegionFacts
from flawscope_station.store.inspection import make_label as make_label
from flawscope_station.store.open_models import NoModelError as NoModelError
from flawscope_station.store.schema import ANOMALOUS as ANOMALOUS
from flawscope_station.store.schema import LATE as LATE
from flawscope_station.store.schema import MISSED as MISSED
from flawscope_station.store.schema import WITHDRAWN as WITHDRAWN
from flawscope_station.store.schema import WITHIN as WITHIN
