"""An .onnx file's own metadata, read and replaced without the onnx package.

An .onnx file is one protobuf message, ModelProto: fields one after the other, each a tag, for most of them a
length, and the content. Metadata are its fields 14, each a key (1) and a value (2). So they can be read by
skipping the rest, and exchanged while every other byte, the weights above all, stays as it is.
https://protobuf.dev/programming-guides/encoding, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

METADATA = 14  # field of ModelProto
LIMIT = 2**31 - 1  # bytes of a protobuf message
MOST_FIELDS = 1_000_000  # a real model has a few thousand

Buffer = bytes | memoryview
Field = tuple[int, int, int, int]  # number, where it begins, where its content begins, where it ends


def fields(data: Buffer, begin: int = 0, end: int | None = None) -> Iterator[Field]:
    """The fields of one message. ValueError if it is none."""
    end = len(data) if end is None else end
    for _ in range(MOST_FIELDS):
        if begin == end:
            return
        tag, content = varint(data, begin, end)
        kind = tag & 7
        if kind == 0:
            after = varint(data, content, end)[1]
        elif kind == 2:
            length, content = varint(data, content, end)
            after = content + length
        elif kind in (1, 5):
            after = content + (8 if kind == 1 else 4)
        else:
            raise ValueError("a field of no known kind")
        if after > end or not tag >> 3:
            raise ValueError("a field that reaches beyond its message")
        yield tag >> 3, begin, content, after
        begin = after
    raise ValueError("too many fields")


def read(data: Buffer, prefix: str) -> dict[str, str]:
    """Metadata whose keys begin with `prefix`. ValueError if the file is damaged."""
    return {key: value for key, value, _, _ in _entries(data) if key.startswith(prefix)}


def body(data: Buffer, prefix: str) -> Iterator[Buffer]:
    """The file without those metadata, in pieces."""
    begin = 0
    for key, _, start, after in _entries(data):
        if key.startswith(prefix):
            yield data[begin:start]
            begin = after
    yield data[begin:]


def write(file: BinaryIO, pieces: Iterable[Buffer], entries: Mapping[str, str]) -> None:
    """A body and metadata to be added to it."""
    for piece in pieces:
        file.write(piece)
    for key, value in entries.items():
        file.write(_message(METADATA, _message(1, key.encode()) + _message(2, value.encode())))


def _entries(data: Buffer) -> Iterator[tuple[str, str, int, int]]:
    """Key, value, and where the entry begins and ends."""
    for number, start, content, after in fields(data):
        if number == METADATA:
            parts = {n: bytes(data[a:b]).decode() for n, _, a, b in fields(data, content, after)}
            yield parts.get(1, ""), parts.get(2, ""), start, after


def varint(data: Buffer, begin: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and where it ends."""
    value = 0
    for k in range(min(10, end - begin)):
        byte = data[begin + k]
        value |= (byte & 127) << 7 * k
        if byte < 128:
            return value, begin + k + 1
    raise ValueError("a number that does not end")


def _message(number: int, content: bytes) -> bytes:
    length, size = len(content), b""
    while length > 127:
        size += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content
