"""Metadata of .onnx files, with the onnx package as the oracle."""

from __future__ import annotations

import io

import numpy as np
import pytest

from flawscope.runtime import onnx_metadata as metadata

onnx = pytest.importorskip("onnx")
PREFIX = "flawscope"


def model(entries: dict[str, str]) -> bytes:
    weight = onnx.numpy_helper.from_array(np.arange(6, dtype=np.float32), "w")
    values = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [6]) for n in "xy"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight]
    )
    made = onnx.helper.make_model(graph)
    onnx.helper.set_model_props(made, entries)
    return made.SerializeToString()


def rewritten(data: bytes, entries: dict[str, str]) -> bytes:
    file = io.BytesIO()
    metadata.write(file, metadata.body(data, PREFIX), entries)
    return file.getvalue()


@pytest.mark.parametrize("length", [0, 1, 127, 128, 129, 16383, 16384, 3_000_000])
def test_what_is_written_the_onnx_package_reads(length: int) -> None:
    entries = {PREFIX: "ü" * length, f"{PREFIX}.more": "2"}
    loaded = onnx.load_model_from_string(rewritten(model({"author": "somebody"}), entries))
    assert {p.key: p.value for p in loaded.metadata_props} == {"author": "somebody", **entries}
    assert metadata.read(loaded.SerializeToString(), PREFIX) == entries


def test_old_entries_of_ours_go_and_everything_else_stays() -> None:
    before = model({f"{PREFIX}.old": "x", "author": "somebody", PREFIX: "1"})
    after = onnx.load_model_from_string(rewritten(before, {PREFIX: "2"}))
    expected = onnx.load_model_from_string(before)
    assert {p.key: p.value for p in after.metadata_props} == {"author": "somebody", PREFIX: "2"}
    for proto in (after, expected):
        proto.ClearField("metadata_props")
    assert after == expected


def test_the_body_does_not_depend_on_our_entries() -> None:
    data = model({"author": "somebody"})
    again = rewritten(rewritten(data, {PREFIX: "1"}), {PREFIX: "2", f"{PREFIX}.x": "3"})
    assert b"".join(metadata.body(again, PREFIX)) == data


def test_what_is_no_message_is_a_value_error() -> None:
    data = model({PREFIX: "1"})
    for cut in range(1, len(data)):
        try:
            metadata.read(data[:cut], PREFIX)
        except ValueError:
            continue
        assert cut in [after for _, _, _, after in metadata.fields(data)]  # between two fields
    for wrong in (b"\xff" * 11, b"\x00\x00", b"\x0b", b"\x0a\xff\xff\xff\xff\x0f", b"PK\x03\x04 a zip"):
        with pytest.raises(ValueError):
            metadata.read(wrong, PREFIX)


def test_very_many_fields_are_not_walked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "MOST_FIELDS", 10)
    with pytest.raises(ValueError, match="too many"):
        metadata.read(b"\x08\x01" * 11, PREFIX)
