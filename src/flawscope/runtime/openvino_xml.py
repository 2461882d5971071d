"""A model's own metadata in OpenVINO's .xml, read and replaced without OpenVINO.

The file is one <net> with <layers>, <edges> and, at the end, <rt_info>, where everyone may keep what they
like. Ours is <flawscope> in it, one element with a `value` for each entry:

    <rt_info> ... <flawscope> <manifest value="{...}" /> <samples value="..." /> ... </flawscope> </rt_info>

OpenVINO gives it as `model.get_rt_info(["flawscope", "manifest"])`. Every byte around it stays as it is.
https://docs.openvino.ai/2025/documentation/openvino-ir-format.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

LIMIT = 64 * 2**20  # bytes; a network takes about one, and expat's time grows with the square of a value
MOST_ELEMENTS = 1_000_000  # a real model has a few thousand
DEEPEST = 64  # elements inside one another; OpenVINO's own reader would use up its stack
PLACE = ["net", "rt_info"]
IN_BIN = ("offset", "size")  # of <data>: where weights lie
MANIFEST = "manifest"  # what stands without a name of its own in other formats


@dataclass
class _Found:
    """ours: from where to where an element called like ours reaches, and whether it is in its place.
    place: where <rt_info> ends; net: where <net> does. odd: what is wrong with the network."""

    entries: dict[str, str] = field(default_factory=dict)
    ours: list[tuple[int, int, bool]] = field(default_factory=list)
    place: int | None = None
    net: int = 0
    odd: str = ""


def read(data: bytes, key: str) -> dict[str, str]:
    """Entries `key`, `key.samples`, ...; none in a model that is not ours. ValueError if it is damaged."""
    return _scan(data, key).entries


def odd(data: bytes, key: str) -> str:
    """What the network has that ours never have and that OpenVINO would not survive, or nothing: loops, which
    may have no end (the body of a Loop, TensorIterator or If is a network), and settings beyond 32 bits, of
    which it uses the lower half (a stride of 2^32 is then a division by 0)."""
    return _scan(data, key).odd


def body(data: bytes, key: str) -> bytes:
    """The file without our element. ValueError if it is there twice, or elsewhere."""
    ours = _scan(data, key).ours
    if len(ours) > 1 or not all(right for _, _, right in ours):
        raise ValueError("a second element of ours")
    return _without(data, ours)


def prepared(data: bytes, key: str) -> bytes:
    """A file as OpenVINO writes it, as a body: with a place for our element, and without what another kind
    of model file has brought along (OpenVINO copies an .onnx file's metadata)."""
    data = _without(data, _scan(data, key).ours)
    found = _scan(data, key)
    if found.place is not None:
        return data
    return data[: found.net] + b"<rt_info>\n\t</rt_info>\n" + data[found.net :]


def written(body: bytes, entries: Mapping[str, str], key: str) -> bytes:
    """A body and our element."""
    place = _scan(body, key).place
    if place is None:
        raise ValueError("no place for metadata")
    lines = [f"<{key}>"]
    for name, value in entries.items():
        short = name.removeprefix(f"{key}.") if name != key else MANIFEST
        lines.append(f"\t<{short} value={quoteattr(value)} />")
    lines.append(f"</{key}>")
    return body[:place] + "\n\t\t".join(lines).encode() + body[place:]


def _without(data: bytes, ours: list[tuple[int, int, bool]]) -> bytes:
    pieces, begin = [], 0
    for start, end, _ in ours:
        pieces.append(data[begin:start])
        begin = end
    return b"".join([*pieces, data[begin:]])


def _beyond(value: str) -> bool:
    """Whether there is a number beyond 32 bits in a list."""
    numbers = (n.strip() for n in value.split(",") if len(n) > 9)
    return any(n.lstrip("+-").isdecimal() and abs(int(n)) >= 2**31 for n in numbers)


def _scan(data: bytes, key: str) -> _Found:
    """ValueError if it is no such file. Nothing is expanded: entities and document types are refused."""
    if len(data) > LIMIT:
        raise ValueError("too large")
    if b"\0" in data:  # UTF-16, which expat takes whatever its declaration says
        raise ValueError("no text")
    scanner = _Scanner(data, key)
    try:
        scanner.parser.Parse(data, True)
    except (expat.ExpatError, KeyError) as error:
        raise ValueError(str(error)) from None
    return scanner.found


class _Scanner:
    """Notes what is looked for while expat goes through the file."""

    def __init__(self, data: bytes, key: str):
        self.data, self.key = data, key
        self.found, self.begin, self.count = _Found(), 0, 0
        self.path: list[str] = []  # of the elements that are open
        self.parser = expat.ParserCreate("UTF-8")
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.StartDoctypeDeclHandler = self.refuse
        self.parser.EntityDeclHandler = self.refuse

    def mine(self, name: str) -> bool:
        return name == self.key or name.startswith(f"{self.key}.")

    def outermost(self, name: str) -> bool:
        """Whether it is one of ours where such stand, and not inside of another."""
        return self.path[:2] == PLACE and self.mine(name) and not any(map(self.mine, self.path[2:]))

    def start(self, name: str, attributes: dict[str, str]) -> None:
        found, path = self.found, self.path
        self.count += 1
        if self.count > MOST_ELEMENTS or len(path) >= DEEPEST:
            raise ValueError("too many elements")
        if not path and name != PLACE[0]:
            raise ValueError("no network")
        if name.endswith("body"):
            found.odd = "loops or branches"
        if name == "data" and any(map(_beyond, (v for k, v in attributes.items() if k not in IN_BIN))):
            found.odd = "settings beyond all measure"
        if self.outermost(name):
            self.begin = self.parser.CurrentByteIndex
        if path == [*PLACE, self.key]:
            entry = self.key if name == MANIFEST else f"{self.key}.{name}"
            if entry in found.entries:
                raise ValueError("an entry twice")
            found.entries[entry] = attributes["value"]
        path.append(name)

    def end(self, name: str) -> None:
        found, path = self.found, self.path
        path.pop()
        at = self.parser.CurrentByteIndex  # of the closing tag; behind the element where it has none
        closed = self.data.startswith(f"</{name}".encode(), at)
        if self.outermost(name):
            after = self.data.index(b">", at) + 1 if closed else at
            found.ours.append((self.begin, after, path == PLACE and name == self.key))
        elif path == PLACE[:1] and name == PLACE[1] and closed:
            found.place = at
        elif not path:
            found.net = at

    def refuse(self, *_: object) -> None:
        raise ValueError("a document type")
