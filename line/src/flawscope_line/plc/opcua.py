"""OPC UA: the station is the server; the PLC, its client, writes `Inputs` and reads `Outputs`."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from asyncua import Server as UaServer
from asyncua import ua
from asyncua.common.callback import CallbackType
from asyncua.common.node import Node

from flawscope_line.plc import OpcUaSettings
from flawscope_line.plc.handshake import Inputs, Outputs
from flawscope_line.plc.line import InputsHandler, TransportError
from flawscope_line.plc.signals import NAMESPACE, OPC_UA_TYPES, ROOT_NODE, TO_PLC, TO_STATION, Signal

Nodes = dict[str, tuple[Node, ua.VariantType]]


class OpcUaServer:
    """Server of the nodes. Written inputs are handled before the request is answered."""

    every = 1.0

    def __init__(self, settings: OpcUaSettings, handle_inputs: InputsHandler):
        self.settings, self._handle_inputs = settings, handle_inputs
        self._exchange_lock = asyncio.Lock()
        self._last_inputs: Inputs | None = None  # None: nothing was written yet
        self._last_outputs = Outputs()

    async def open(self) -> None:
        logging.getLogger("asyncua").setLevel(logging.ERROR)  # else it logs every client that leaves
        host, port = self.settings.address
        self._server = server = UaServer()
        await server.init()
        server.set_endpoint(f"opc.tcp://{host}:{port}/")
        server.set_server_name("flawscope")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        self._inputs, self._outputs = await add_nodes(server)
        server.subscribe_server_callback(CallbackType.PostWrite, self._on_write)
        try:
            await server.start()
        except OSError as error:
            raise TransportError(f"{host}:{port} cannot be used: {error.strerror}") from None

    async def _on_write(self, event: Any, _: Any) -> None:
        if event.is_external:
            self._last_inputs = self._read_inputs()
            await self.exchange()

    async def exchange(self) -> None:
        async with self._exchange_lock:
            outputs = self._handle_inputs(self._last_inputs)
            for name in write_order(self._last_outputs, outputs):
                node, kind = self._outputs[name]
                value = ua.DataValue(ua.Variant(getattr(outputs, name), kind))
                await self._server.write_attribute_value(node.nodeid, value)
            self._last_outputs = outputs

    def _read_inputs(self) -> Inputs:
        """Return the values of the nodes; of one that was written as bad, its first."""
        found: dict[str, Any] = {}
        for name, (node, _) in self._inputs.items():
            value = self._server.read_attribute_value(node.nodeid).Value
            found |= {} if value is None or value.Value is None else {name: value.Value}
        return Inputs(**{**found, "part": found.get("part", "").strip()})

    async def close(self) -> None:
        await self._server.stop()


def write_order(before: Outputs, now: Outputs) -> list[str]:
    """Return the changed signals in the order of writing, for a PLC sees them one by one: bits that fall,
    then values, then bits that rise, `done` the last."""
    changed = [one for one in TO_PLC if getattr(before, one.name) != getattr(now, one.name)]

    def place(signal: Signal) -> tuple[int, bool]:
        rises = signal.kind == "bit" and getattr(now, signal.name)
        return (2 if rises else int(signal.kind != "bit")), signal.name == "done"

    return [one.name for one in sorted(changed, key=place)]


async def add_nodes(server: UaServer) -> tuple[Nodes, Nodes]:
    """Add the nodes to a server; return those of the inputs and of the outputs by signal."""
    space = await server.register_namespace(NAMESPACE)
    home = await server.nodes.objects.add_object(
        _node_id(ROOT_NODE, space), ua.QualifiedName(ROOT_NODE, space)
    )
    both: list[Nodes] = []
    for folder, signals, start in (("Inputs", TO_STATION, Inputs()), ("Outputs", TO_PLC, Outputs())):
        name = f"{ROOT_NODE}.{folder}"
        parent = await home.add_folder(_node_id(name, space), ua.QualifiedName(folder, space))
        found: Nodes = {}
        for one in signals:
            kind = ua.VariantType[OPC_UA_TYPES[one.kind]]
            named = _node_id(f"{name}.{one.node}", space), ua.QualifiedName(one.node, space)
            node = await parent.add_variable(*named, getattr(start, one.name), kind)
            text = ua.DataValue(ua.Variant(ua.LocalizedText(one.meaning)))
            await node.write_attribute(ua.AttributeIds.Description, text)
            if folder == "Inputs":
                await node.set_writable()
            found[one.name] = node, kind
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
