"""OPC UA: the station is the server; the PLC, its client, writes `Inputs` and reads `Outputs`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from hmac import compare_digest
from pathlib import Path

from asyncua import Server as UaServer
from asyncua import ua
from asyncua.common.connection import TransportLimits
from asyncua.common.node import Node
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession
from asyncua.server.subscription_service import SubscriptionService
from asyncua.server.user_managers import UserManager
from typing_extensions import override

from flawscope.errors import one_line_message
from flawscope_line.plc.brief_log import log_briefly
from flawscope_line.plc.handshake import Inputs, Outputs
from flawscope_line.plc.line import InputsHandler, TransportError
from flawscope_line.plc.settings import OpcUaSettings
from flawscope_line.plc.signals import NAMESPACE, OPC_UA_TYPES, ROOT_NODE, TO_PLC, TO_STATION, Signal
from flawscope_station.plugins import secret

Nodes = dict[str, tuple[Node, ua.VariantType]]
# of a request
MAX_CHUNK_BYTES = 65535
MAX_CHUNKS = 64
_STRANGER = User(role=UserRole.Anonymous)  # before it has signed in
MIN_PUBLISHING_MS = 10.0  # between two notifications of a subscription
_PYTHON_TYPES: dict[ua.VariantType, tuple[type, ...]] = {
    ua.VariantType.Boolean: (bool,),
    ua.VariantType.UInt16: (int,),
    ua.VariantType.String: (str, type(None)),
}


class OpcUaServer:
    """Server of the nodes. Written inputs are handled before the request is answered."""

    every = 1.0

    def __init__(self, settings: OpcUaSettings, handle_inputs: InputsHandler):
        self.settings = settings
        self._handle_inputs = handle_inputs
        self._exchange_lock = asyncio.Lock()
        self._last_inputs: Inputs | None = None  # None: nothing was written yet
        self._last_outputs = Outputs()

    async def open(self) -> None:
        """Begin to listen. TransportError where the address or the certificate cannot be used."""
        log_briefly("asyncua")
        host, port = self.settings.address
        core = _Core(self._take_inputs, self.settings)
        self._server = server = UaServer(core)
        server.limits = TransportLimits(*(MAX_CHUNK_BYTES,) * 2, MAX_CHUNKS, MAX_CHUNK_BYTES * MAX_CHUNKS)
        await server.init()
        server.set_endpoint(f"opc.tcp://{host}:{port}/")
        server.set_server_name("flawscope")
        if self.settings.certificate_file is None or self.settings.key_file is None:
            server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        else:
            try:
                await server.load_certificate(self.settings.certificate_file)
                await server.load_private_key(self.settings.key_file)
            except (OSError, ValueError, TypeError) as error:
                raise TransportError(
                    f"certificate_file and key_file cannot be used: {one_line_message(error)}"
                ) from None
            server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
        if self.settings.user is not None:
            server.set_identity_tokens([ua.UserNameIdentityToken])
        self._inputs, self._outputs = await add_nodes(server)
        core.writable = {node.nodeid: kind for node, kind in self._inputs.values()}
        try:
            await server.start()
        except OSError as error:
            raise TransportError(f"{host}:{port} cannot be used: {error.strerror}") from None

    async def _take_inputs(self) -> None:
        """Pass the signals that a client has written to the handler."""
        values = {name: await node.read_value() for name, (node, _) in self._inputs.items()}
        self._last_inputs = Inputs(**{**values, "part": values["part"] or ""})
        await self.exchange()

    async def exchange(self) -> None:
        """Pass the last inputs to the handler, and write the outputs that have changed in `write_order`.

        The inputs are None until a client has written.
        """
        async with self._exchange_lock:
            outputs = self._handle_inputs(self._last_inputs)
            for name in write_order(self._last_outputs, outputs):
                node, kind = self._outputs[name]
                value = ua.DataValue(ua.Variant(getattr(outputs, name), kind))
                await self._server.write_attribute_value(node.nodeid, value)
            self._last_outputs = outputs

    async def close(self) -> None:
        """Stop the server."""
        await self._server.stop()


class _Plc(UserManager):
    """User manager that gives every client the same rights: asyncua's own makes `admin` an administrator.

    Where the settings name a user, nobody else signs in.
    """

    def __init__(self, settings: OpcUaSettings):
        self._settings = settings

    @override
    def get_user(
        self, *given: object, username: object = None, password: object = None, **more: object
    ) -> User | None:
        user = self._settings.user
        file = self._settings.password_file
        if user is not None and file is not None:
            pairs = (username, user), (password, secret(file, "password_file"))
            if not all(compare_digest(str(sent).encode(), right.encode()) for sent, right in pairs):
                return None
        return User(role=UserRole.User)


class _Core(InternalServer):
    """Server core where a client may read everything, and write only the nodes in `writable`.

    A session belongs to its connection: asyncua would give it to any client that names its token, which can
    be guessed.

    Args:
        take_inputs: Handles signals that were written.
        settings: Settings with the user who may sign in.

    Attributes:
        writable: Type of each node that a client may write.
    """

    def __init__(self, take_inputs: Callable[[], Awaitable[None]], settings: OpcUaSettings):
        super().__init__(_Plc(settings))
        self.take_inputs, self.lock = take_inputs, asyncio.Lock()
        self.writable: dict[ua.NodeId, ua.VariantType] = {}

    @override
    def create_session(self, name: str, user: User = _STRANGER, external: bool = False) -> InternalSession:
        return _Session(self, self.aspace, SubscriptionService(self.aspace, self), name, user, external)

    @override
    def lookup_external_session(self, auth_token: ua.NodeId) -> None:
        return None

    @override
    def register_server(self, server: object, conf: object = None) -> None:
        raise ServiceError(ua.StatusCodes.BadServiceUnsupported)


class _Session(InternalSession):
    """Session of a client with its own subscription service: it cannot reach that of another."""

    iserver: _Core

    @override
    async def write(self, params: ua.WriteParameters) -> list[ua.StatusCode]:
        """Write inputs, all of a request or none: Trigger does not rise with a part that was refused."""
        codes = [self._refusal(node) for node in params.NodesToWrite]
        if any(codes):
            return [ua.StatusCode(ua.UInt32(code or ua.StatusCodes.BadTransactionFailed)) for code in codes]
        async with self.iserver.lock:  # no other's write comes in between
            results = await super().write(params)
            await self.iserver.take_inputs()
        return results

    def _refusal(self, node: ua.WriteValue) -> int:
        """Return the status code that says why a value cannot be written; 0: it can be written."""
        kind = self.iserver.writable.get(node.NodeId)
        value = node.Value
        if kind is None or node.AttributeId != ua.AttributeIds.Value:
            return ua.StatusCodes.BadUserAccessDenied
        if node.IndexRange:
            return ua.StatusCodes.BadIndexRangeInvalid
        is_good = value.StatusCode is None or value.StatusCode.is_good()
        if not is_good or value.Value is None or value.Value.VariantType != kind:
            return ua.StatusCodes.BadTypeMismatch
        is_alone = isinstance(value.Value.Value, _PYTHON_TYPES[kind])
        return 0 if is_alone else ua.StatusCodes.BadTypeMismatch

    @override
    async def create_subscription(
        self, params: ua.CreateSubscriptionParameters, *given: object, **more: object
    ) -> ua.CreateSubscriptionResult:
        """Create a subscription that notifies at most every `MIN_PUBLISHING_MS` milliseconds."""
        wanted = params.RequestedPublishingInterval
        params.RequestedPublishingInterval = wanted if wanted > MIN_PUBLISHING_MS else MIN_PUBLISHING_MS
        # asyncua's callbacks, whose number differs between its versions
        return await super().create_subscription(params, *given, **more)  # type: ignore[arg-type]


def write_order(before: Outputs, now: Outputs) -> list[str]:
    """Return the names of the changed signals in the order of writing: a PLC sees them one by one.

    Bits that fall come first, then values, then bits that rise; `done` is the last.
    """
    changed = [signal for signal in TO_PLC if getattr(before, signal.name) != getattr(now, signal.name)]

    def place(signal: Signal) -> tuple[int, bool]:
        rises = signal.kind == "bit" and getattr(now, signal.name)
        return (2 if rises else int(signal.kind != "bit")), signal.name == "done"

    return [signal.name for signal in sorted(changed, key=place)]


async def add_nodes(server: UaServer) -> tuple[Nodes, Nodes]:
    """Add the nodes to a server. Return the nodes of the inputs and of the outputs, each by signal."""
    space = await server.register_namespace(NAMESPACE)
    home = await server.nodes.objects.add_object(
        _node_id(ROOT_NODE, space), ua.QualifiedName(ROOT_NODE, space)
    )
    both: list[Nodes] = []
    for folder, signals, start in (("Inputs", TO_STATION, Inputs()), ("Outputs", TO_PLC, Outputs())):
        name = f"{ROOT_NODE}.{folder}"
        parent = await home.add_folder(_node_id(name, space), ua.QualifiedName(folder, space))
        found: Nodes = {}
        for signal in signals:
            kind = ua.VariantType[OPC_UA_TYPES[signal.kind]]
            named = _node_id(f"{name}.{signal.node}", space), ua.QualifiedName(signal.node, space)
            node = await parent.add_variable(*named, getattr(start, signal.name), kind)
            text = ua.DataValue(ua.Variant(ua.LocalizedText(signal.meaning)))
            await node.write_attribute(ua.AttributeIds.Description, text)
            if folder == "Inputs":
                await node.set_writable()
            found[signal.name] = node, kind
        both.append(found)
    return both[0], both[1]


def _node_id(name: str, space: int) -> ua.NodeId:
    return ua.NodeId.from_string(f"ns={space};s={name}")


async def write_nodeset(path: Path) -> None:
    """Write the nodes as NodeSet XML, for tools that program PLCs."""
    server = UaServer()
    await server.init()
    await add_nodes(server)
    space = await server.get_namespace_index(NAMESPACE)
    await server.export_xml_by_ns(str(path), [space])
