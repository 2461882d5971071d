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

Nodes = dict[str, tuple[Node, ua.VariantType]]  # node and type of its value, by the signal's name
MAX_CHUNK_BYTES = 65535  # of a chunk of a request
MAX_CHUNKS = 64  # of a request
_STRANGER = User(role=UserRole.Anonymous)  # client that has not signed in
MIN_PUBLISHING_MS = 10.0  # shortest milliseconds between two notifications of a subscription
# Python's types of a single value, by the type of the node
_PYTHON_TYPES: dict[ua.VariantType, tuple[type, ...]] = {
    ua.VariantType.Boolean: (bool,),
    ua.VariantType.UInt16: (int,),
    ua.VariantType.String: (str, type(None)),
}


class OpcUaServer:
    """Server of the nodes; written inputs are handled before the request is answered."""

    every = 1.0

    def __init__(self, settings: OpcUaSettings, handle_inputs: InputsHandler):
        self.settings = settings
        self._handle_inputs = handle_inputs
        self._exchange_lock = asyncio.Lock()
        self._last_inputs: Inputs | None = None  # None: nothing was written yet
        self._last_outputs = Outputs()

    async def open(self) -> None:
        """Begin to listen.

        Raises:
            TransportError: The address or the certificate cannot be used.
        """
        log_briefly("asyncua")
        host, port = self.settings.address
        core = _Core(self._take_inputs, self.settings)
        server = UaServer(core)
        self._server = server
        max_message_bytes = MAX_CHUNK_BYTES * MAX_CHUNKS
        # most bytes of a received chunk, bytes of a sent chunk, chunks of a message, bytes of a message
        server.limits = TransportLimits(MAX_CHUNK_BYTES, MAX_CHUNK_BYTES, MAX_CHUNKS, max_message_bytes)
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
                node, variant_type = self._outputs[name]
                value = ua.DataValue(ua.Variant(getattr(outputs, name), variant_type))
                await self._server.write_attribute_value(node.nodeid, value)
            self._last_outputs = outputs

    async def close(self) -> None:
        """Stop the server."""
        await self._server.stop()


class _Plc(UserManager):
    """User manager that gives every client the same rights: asyncua's own makes `admin` an administrator.

    Where the settings name a user, no other user may sign in.
    """

    def __init__(self, settings: OpcUaSettings):
        self._settings = settings

    @override
    def get_user(
        self, *args: object, username: object = None, password: object = None, **kwargs: object
    ) -> User | None:
        """Return the user that signs in; None: name or password is wrong."""
        user = self._settings.user
        password_file = self._settings.password_file
        if user is not None and password_file is not None:
            # both are compared in constant time, so that no time shows how much of them is right
            is_user = compare_digest(str(username).encode(), user.encode())
            right_password = secret(password_file, "password_file")
            is_password = compare_digest(str(password).encode(), right_password.encode())
            if not (is_user and is_password):
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
        self.take_inputs = take_inputs
        self.lock = asyncio.Lock()
        self.writable: dict[ua.NodeId, ua.VariantType] = {}

    @override
    def create_session(self, name: str, user: User = _STRANGER, external: bool = False) -> InternalSession:
        """Return a session with a subscription service of its own."""
        return _Session(self, self.aspace, SubscriptionService(self.aspace, self), name, user, external)

    @override
    def lookup_external_session(self, auth_token: ua.NodeId) -> None:
        """Return None: no connection gets the session of another."""
        return None

    @override
    def register_server(self, server: object, conf: object = None) -> None:
        """Refuse to register another server."""
        raise ServiceError(ua.StatusCodes.BadServiceUnsupported)


class _Session(InternalSession):
    """Session of a client with its own subscription service: it cannot reach another session's."""

    iserver: _Core

    @override
    async def write(self, params: ua.WriteParameters) -> list[ua.StatusCode]:
        """Write all inputs of a request, or none: Trigger must not rise if the part's number was refused."""
        codes = [self._refusal(node) for node in params.NodesToWrite]
        if any(codes):
            # BadTransactionFailed: the value itself could be written
            return [ua.StatusCode(ua.UInt32(code or ua.StatusCodes.BadTransactionFailed)) for code in codes]
        async with self.iserver.lock:  # no other client writes meanwhile
            results = await super().write(params)
            await self.iserver.take_inputs()
        return results

    def _refusal(self, node: ua.WriteValue) -> int:
        """Return the status code that says why a value cannot be written; 0: it can be written."""
        variant_type = self.iserver.writable.get(node.NodeId)
        data_value = node.Value
        if variant_type is None or node.AttributeId != ua.AttributeIds.Value:
            return ua.StatusCodes.BadUserAccessDenied
        if node.IndexRange:
            return ua.StatusCodes.BadIndexRangeInvalid
        is_good = data_value.StatusCode is None or data_value.StatusCode.is_good()
        if not is_good or data_value.Value is None or data_value.Value.VariantType != variant_type:
            return ua.StatusCodes.BadTypeMismatch
        is_single_value = isinstance(data_value.Value.Value, _PYTHON_TYPES[variant_type])  # no array
        return 0 if is_single_value else ua.StatusCodes.BadTypeMismatch

    @override
    async def create_subscription(
        self, params: ua.CreateSubscriptionParameters, *args: object, **kwargs: object
    ) -> ua.CreateSubscriptionResult:
        """Create a subscription that notifies at most every `MIN_PUBLISHING_MS` milliseconds."""
        interval_ms = params.RequestedPublishingInterval
        is_long_enough = interval_ms > MIN_PUBLISHING_MS  # False also for NaN
        params.RequestedPublishingInterval = interval_ms if is_long_enough else MIN_PUBLISHING_MS
        # the further arguments are asyncua's callbacks, whose number differs between its versions
        return await super().create_subscription(params, *args, **kwargs)  # type: ignore[arg-type]


def write_order(previous: Outputs, present: Outputs) -> list[str]:
    """Return the names of the changed signals in the order of writing: a PLC sees them one after another.

    Bits that fall come first, then values, then bits that rise; `done` is the last.

    Args:
        previous: Signals that were written last.
        present: Signals to write.
    """
    changed_signals = [
        signal for signal in TO_PLC if getattr(previous, signal.name) != getattr(present, signal.name)
    ]

    def sort_key(signal: Signal) -> tuple[int, bool]:
        # rank 0: a bit that falls; 1: a value; 2: a bit that rises
        if signal.kind != "bit":
            rank = 1
        else:
            is_rising = bool(getattr(present, signal.name))
            rank = 2 if is_rising else 0
        return rank, signal.name == "done"

    return [signal.name for signal in sorted(changed_signals, key=sort_key)]


async def add_nodes(server: UaServer) -> tuple[Nodes, Nodes]:
    """Add the nodes to a server; return the nodes of the inputs, and those of the outputs."""
    space = await server.register_namespace(NAMESPACE)
    root_node = await server.nodes.objects.add_object(
        _node_id(ROOT_NODE, space), ua.QualifiedName(ROOT_NODE, space)
    )
    nodes_of_sides: list[Nodes] = []
    for folder, signals, initial_values in (("Inputs", TO_STATION, Inputs()), ("Outputs", TO_PLC, Outputs())):
        name = f"{ROOT_NODE}.{folder}"
        folder_node = await root_node.add_folder(_node_id(name, space), ua.QualifiedName(folder, space))
        nodes: Nodes = {}
        for signal in signals:
            variant_type = ua.VariantType[OPC_UA_TYPES[signal.kind]]
            node_id = _node_id(f"{name}.{signal.node}", space)
            node_name = ua.QualifiedName(signal.node, space)
            initial_value = getattr(initial_values, signal.name)
            node = await folder_node.add_variable(node_id, node_name, initial_value, variant_type)
            description = ua.DataValue(ua.Variant(ua.LocalizedText(signal.meaning)))
            await node.write_attribute(ua.AttributeIds.Description, description)
            if folder == "Inputs":
                await node.set_writable()
            nodes[signal.name] = node, variant_type
        nodes_of_sides.append(nodes)
    input_nodes, output_nodes = nodes_of_sides
    return input_nodes, output_nodes


def _node_id(name: str, space: int) -> ua.NodeId:
    """Return the id of a node, from its name and the index of its namespace."""
    return ua.NodeId.from_string(f"ns={space};s={name}")


async def write_nodeset(path: Path) -> None:
    """Write the nodes as NodeSet XML, for tools that program PLCs."""
    server = UaServer()
    await server.init()
    await add_nodes(server)
    space = await server.get_namespace_index(NAMESPACE)
    await server.export_xml_by_ns(str(path), [space])
