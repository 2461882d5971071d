"""Table of the signals: their Modbus registers and their nodes of OPC UA."""

from __future__ import annotations

import csv
import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from flawscope_line.plc.handshake import Code, Inputs, Kind, Outputs

SignalKind = Literal["bit", "byte", "word", "real", "long", "text"]
# number of registers of 16 bits, by kind
REGISTERS = {"bit": 1, "byte": 1, "word": 1, "real": 2, "long": 2, "text": 16}
MASKS = {"bit": 1, "byte": 255}  # masks of the kinds that share a register
OPC_UA_TYPES = {
    **{"bit": "Boolean", "byte": "Byte", "word": "UInt16", "real": "Float", "long": "UInt32"},
    "text": "String",
}
# texts about the order in registers, by kind
WRITTEN = {
    "text": "; Latin-1, two letters in a register, the first one high",
    "real": "; 32 bits, high word first",
    "long": "; 32 bits, high word first",
}
MAX_PART_LENGTH = 32  # letters of a part's number
PADDING = " \t\r\n"  # characters that a PLC may add around a part's number
NAMESPACE = "urn:flawscope:plc"
ROOT_NODE = "Flawscope"  # object of the nodes


@dataclass(frozen=True)
class Signal:
    """Signal of the PLC or the station.

    Attributes:
        name: Name of its field in `Inputs` or `Outputs`.
        kind: Type of the value.
        register: First register, counted from the first register of the PLC's or the station's signals.
        meaning: Meaning in words, for programmers of PLCs.
        bit: Lowest bit of a bit or byte in its register, 0 to 15; None for other kinds.
    """

    name: str
    kind: SignalKind
    register: int
    meaning: str
    bit: int | None = None

    @property
    def node(self) -> str:
        """Name of the node below `ROOT_NODE`."""
        return self.name.upper() if self.name in ("ok", "nok") else self.name.title().replace("_", "")


_CODE_LIST = ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in Code)
_KIND_MEANING = (
    "of the strongest region's defect, with NOK or Tolerated: 1 and more in the order of the model's kinds, "
    f"{Kind.SEVERAL.value} several fit, {Kind.NEW.value} something new, 0 not known"
)
TO_STATION = (
    Signal("trigger", "bit", 0, "rises: inspect the part; falls: the answer was read", 0),
    Signal("heartbeat", "word", 1, "another number at least every half watchdog"),
    Signal("recipe", "word", 2, "number of the product; 0 where there is one alone"),
    Signal("part", "text", 3, f"number of the part, up to {MAX_PART_LENGTH} letters; before Trigger rises"),
)
TO_PLC = (
    Signal("ready", "bit", 0, "Trigger may rise", 0),
    Signal("busy", "bit", 0, "Trigger was seen, the part is being inspected", 1),
    Signal("done", "bit", 0, "the answer is there, until Trigger falls", 2),
    Signal("ok", "bit", 0, "judged good, or within tolerance", 3),
    Signal("nok", "bit", 0, "judged anomalous", 4),
    Signal("error", "bit", 0, "with Done: not judged; without: the station cannot inspect", 5),
    Signal("heartbeat", "word", 1, "counts 4 times a second"),
    Signal("recipe", "word", 2, "number of the product whose model is loaded; 0 while none is"),
    Signal("result", "word", 3, "0 none, 1 good, 2 anomalous, 3 not judged, 4 within tolerance"),
    Signal("code", "word", 4, f"why Error or no Ready: {_CODE_LIST}"),
    Signal("regions", "word", 5, "number of anomalous regions"),
    Signal("score", "real", 6, "of the part; higher is more anomalous"),
    Signal("inspection", "long", 8, "number in the station's records"),
    Signal("part", "text", 10, "that the answer is about, as it came with Trigger"),
    # `kind` and `tolerated` share register 0: the PLC may be the server, and have no further registers
    Signal("kind", "byte", 0, _KIND_MEANING, 8),
    Signal("tolerated", "bit", 0, "with OK: anomalous, but within tolerance", 7),
)


def register_count(signals: Sequence[Signal]) -> int:
    """Return the number of registers of the PLC's or the station's signals."""
    return max(signal.register + REGISTERS[signal.kind] for signal in signals)


def pack(values: Inputs | Outputs, signals: Sequence[Signal]) -> list[int]:
    """Return the registers of signals.

    Numbers have the high word first; a text has two letters a register, the first in the high byte.
    """
    words = [0] * register_count(signals)
    for signal in signals:
        value: Any = getattr(values, signal.name)
        if signal.kind in MASKS:
            words[signal.register] |= int(value) << (signal.bit or 0)  # None: it begins at bit 0
            continue
        if signal.kind == "text":
            data = value.encode("latin-1", "replace")[:MAX_PART_LENGTH].ljust(MAX_PART_LENGTH, b"\0")
        elif signal.kind == "real":
            data = struct.pack(">f", value)
        else:
            four_bytes = struct.pack(">I", min(value, 2**32 - 1))
            data = four_bytes[-2 * REGISTERS[signal.kind] :]  # a register has the low two bytes
        registers = struct.unpack(f">{REGISTERS[signal.kind]}H", data)
        words[signal.register : signal.register + len(registers)] = registers
    return words


def unpack(words: Sequence[int], signals: Sequence[Signal]) -> dict[str, Any]:
    """Return the values of signals in registers, by the signal's name."""
    values: dict[str, Any] = {}
    for signal in signals:
        registers = words[signal.register : signal.register + REGISTERS[signal.kind]]
        data = struct.pack(f">{len(registers)}H", *registers)
        if signal.kind in MASKS:
            lowest_bit = signal.bit or 0
            bits = (registers[0] >> lowest_bit) & MASKS[signal.kind]
            values[signal.name] = bool(bits) if signal.kind == "bit" else bits
        elif signal.kind == "text":
            values[signal.name] = data.decode("latin-1").rstrip("\0")  # `pack` appends the NULs again
        elif signal.kind == "real":
            (values[signal.name],) = struct.unpack(">f", data)
        else:
            values[signal.name] = int.from_bytes(data)
    return values


def part_number(text: str) -> str:
    """Return the part's number in a PLC's text, which ends at NUL and may be padded.

    The PLC gets its text back unchanged, byte for byte, for it may compare the two.
    """
    return text.partition("\0")[0].strip(PADDING)


def signals_csv(inputs: int = 0, outputs: int = 100) -> str:
    """Return all signals as CSV, for programmers of PLCs.

    The column `reference` is Modicon's number of a holding register, 40001 and more.

    Args:
        inputs: First register of the PLC's signals.
        outputs: First register of the station's signals.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("from", "signal", "type", "register", "reference", "bit", "registers", "node", "meaning")
    )
    for side, first_register, signals, folder in (
        ("PLC", inputs, TO_STATION, "Inputs"),
        ("station", outputs, TO_PLC, "Outputs"),
    ):
        for signal in signals:
            register = first_register + signal.register
            bit = "" if signal.bit is None else signal.bit
            # Modicon counts holding registers from 40001
            register_columns = register, f"4{register + 1:04}", bit, REGISTERS[signal.kind]
            node_and_meaning = (
                f"{ROOT_NODE}.{folder}.{signal.node}",
                signal.meaning + WRITTEN.get(signal.kind, ""),
            )
            writer.writerow(
                (side, signal.node, OPC_UA_TYPES[signal.kind], *register_columns, *node_and_meaning)
            )
    return text.getvalue()


assert {signal.name for signal in TO_STATION} == {field.name for field in fields(Inputs)}
assert {signal.name for signal in TO_PLC} == {field.name for field in fields(Outputs)}
