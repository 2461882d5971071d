"""Exported files: damage, networks that mean harm behind right hashes, and metadata, with the onnx package as
the oracle."""

import errno
import io
import json

import numpy as np
import onnx
import pytest

import flawscope
from flawscope.errors import InputError
from flawscope.runtime import onnx_check
from flawscope.runtime import onnx_file as runtime
from onnx_networks import FLOAT, constant, network, node, used


def loop(start):
    tensor = onnx.helper.make_tensor_value_info
    boolean, number = onnx.TensorProto.BOOL, onnx.TensorProto.INT64
    body = onnx.helper.make_graph(
        [node("Identity", ["go"], ["again"]), node("Identity", ["x"], ["y"])],
        "body",
        [tensor("k", number, []), tensor("go", boolean, []), tensor("x", FLOAT, None)],
        [tensor("again", boolean, []), tensor("y", FLOAT, None)],
    )
    constants = [constant("true", True, np.bool_), constant("zero", 0, np.float32)]
    return used("end", constants, node("Loop", ["", "true", start], ["end"], body=body))


def branch():
    value = onnx.helper.make_tensor_value_info("y", FLOAT, [])
    side = onnx.helper.make_graph([node("Constant", [], ["y"], value_float=1.0)], "side", [], [value])
    chosen = node("If", ["true"], ["x"], then_branch=side, else_branch=side)
    return used("x", [constant("true", True, np.bool_)], chosen)


def functions():
    """Each calls the one before it twice: 2^30 nodes."""
    opsets = [onnx.helper.make_opsetid(*o) for o in (("", 18), ("evil", 1))]
    bodies = [[node("Neg", ["a"], ["b"])]]
    for k in range(30):
        call = [node(f"F{k}", [a], [b], domain="evil") for a, b in (("a", "t"), ("t", "b"))]
        bodies.append(call)
    made = [
        onnx.helper.make_function("evil", f"F{k}", ["a"], ["b"], body, opsets)
        for k, body in enumerate(bodies)
    ]
    return network([node("F30", ["peak"], ["scores"], domain="evil")], functions=made)


def in_another_file(tensor):
    onnx.external_data_helper.set_external_data(tensor, "../../../etc/passwd", 0, 4)
    tensor.ClearField("raw_data")


def external(inside_a_node):
    value = constant("x", [0.0], np.float32)
    if not inside_a_node:
        in_another_file(value)
        return used("x", [value])
    made = used("x", [], node("Constant", [], ["x"], value=value))
    in_another_file(next(n for n in made.graph.node if n.op_type == "Constant").attribute[0].t)
    return made


def sparse():
    made = used("x", [])
    tensor = made.graph.sparse_initializer.add()
    tensor.values.CopyFrom(constant("x", [1.0], np.float32))
    tensor.indices.CopyFrom(constant("", [0]))
    tensor.dims.append(2**33)
    return made


REFUSED = {
    "endless loop": (lambda: loop("peak"), "'Loop'"),
    "endless loop while loading": (lambda: loop("zero"), "'Loop'"),
    "graph inside a graph": (branch, "'If'"),
    "functions that call functions": (functions, "not allowed"),
    "functions, with a name that is allowed": (
        lambda: network(
            functions=[
                onnx.helper.make_function("", "Add", ["a"], ["b"], [], [onnx.helper.make_opsetid("", 18)])
            ]
        ),
        "a model with parts that are not allowed",
    ),
    "unknown domain": (lambda: network([node("Conv", ["peak"], ["scores"], domain="evil")]), "'evil Conv'"),
    "ONNX Runtime's own": (
        lambda: network([node("FusedMatMul", ["mean", "mean"], ["maps"], domain="com.microsoft")]),
        "'com.microsoft FusedMatMul'",
    ),
    "chance": (lambda: network([node("RandomUniformLike", ["peak"], ["scores"])]), "'RandomUniformLike'"),
    "weights in another file": (lambda: external(False), "other files"),
    "a constant in another file": (lambda: external(True), "other files"),
    "sparse weights": (sparse, "a graph with parts that are not allowed"),
    "texts": (lambda: network([], [onnx.helper.make_tensor("x", 8, [1], [b"a"])]), "text"),
    "a text in a node": (lambda: network([node("Constant", [], ["x"], value_string="a" * 99)]), "text"),
    "numbers as text": (lambda: network([node("Cast", ["peak"], ["x"], to=8)]), "text"),
    "numbers as text, wrapped around": (
        lambda: network([node("Cast", ["peak"], ["x"], to=2**32 + 8)]),
        "text",
    ),
    "a graph for an operator that has none": (
        lambda: network([node("Neg", ["peak"], ["scores"], x=network().graph)]),
        "an attribute with parts that are not allowed",
    ),
    "a step that 32 bits do not hold": (  # with it OpenVINO divides by 0, which ends the process
        lambda: network([node("MaxPool", ["images"], ["x"], kernel_shape=[2, 2], strides=[1, 2**32])]),
        "settings beyond all measure, 'strides'",
    ),
    "a negative one": (
        lambda: network([node("ReduceMax", ["mean"], ["x"], keepdims=-(2**40))]),
        "settings beyond all measure, 'keepdims'",
    ),
    "very many nodes": (
        lambda: network([node("Neg", ["peak"], [f"x{k}"]) for k in range(onnx_check.MAX_NODES)]),
        "nodes",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused(name, monkeypatch):
    monkeypatch.setattr(onnx_check, "MAX_NODES", 500)
    make, reason = REFUSED[name]
    with pytest.raises(ValueError) as error:
        onnx_check.check(memoryview(make().SerializeToString()))
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def message(number, content):
    return runtime._encode_field(number, content)


def test_what_readers_could_understand_otherwise_is_refused():
    """The same field twice: the last one counts for some, the first one for others."""
    operator = message(4, b"Neg")
    for parts in (operator + message(4, b"Loop"), message(4, b"Loop") + operator, operator + operator):
        with pytest.raises(ValueError):
            onnx_check.check(message(7, message(1, parts)))
    onnx_check.check(message(7, message(1, operator)))
    with pytest.raises(ValueError, match="Loop"):  # two graphs are read as one
        onnx_check.check(message(7, message(1, operator)) + message(7, message(1, message(4, b"Loop"))))
    for eight in (b"\x08", b"\x88\x00", b"\x88\x80\x80\x80\x00"):  # numbers can be written in several ways
        with pytest.raises(ValueError, match="text"):
            onnx_check.check(message(7, message(5, b"\x10" + eight)))


def test_damage_is_a_value_error():
    data = network([node("Cast", ["peak"], ["x"], to=1)]).SerializeToString()
    rng = np.random.default_rng(0)
    for _ in range(2000):
        broken = bytearray(data)
        broken[rng.integers(len(data))] = rng.integers(256)
        try:
            onnx_check.check(memoryview(broken)[: rng.integers(len(data) + 1)])
        except ValueError:
            continue


def test_quantised_networks_pass(onnx_path, tmp_path):
    from onnxruntime import quantization

    path = tmp_path / "quantised.onnx"
    quantization.quantize_dynamic(onnx_path, path)
    assert {"ConvInteger", "DynamicQuantizeLinear"} <= {n.op_type for n in onnx.load(path).graph.node}
    onnx_check.check(memoryview(path.read_bytes()))


def test_no_operator_on_the_list_can_hold_a_graph_or_make_text():
    """The operators' own descriptions are the oracle."""
    schemas = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            schemas.setdefault(schema.name, []).append(schema)
    for name in onnx_check.OPERATORS[""]:
        assert name in schemas, name
        for schema in schemas.get(name, ()):
            assert not any("GRAPH" in str(a.type) for a in schema.attributes.values()), name
            for result in schema.outputs:
                types = set(result.types)
                assert not any(t.startswith(("seq", "optional", "map")) for t in types - {""}) or (
                    name == "Identity"
                ), name
                assert types != {"tensor(string)"}, name


def test_a_file_with_right_hashes_is_refused_in_one_line(onnx_path, tmp_path):
    make, reason = REFUSED["endless loop"]
    path = tmp_path / "bad.onnx"
    runtime.write(runtime.read(onnx_path), make().SerializeToString(), path)
    with pytest.raises(InputError) as error:
        flawscope.load(path)
    assert str(path) in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


PREFIX = "flawscope"


def with_metadata(entries):
    weight = onnx.numpy_helper.from_array(np.arange(6, dtype=np.float32), "w")
    values = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [6]) for n in "xy"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight]
    )
    made = onnx.helper.make_model(graph)
    onnx.helper.set_model_props(made, entries)
    return made.SerializeToString()


def rewritten(data, entries):
    file = io.BytesIO()
    runtime.write_entries(file, runtime.without_metadata(data), entries)
    return file.getvalue()


@pytest.mark.parametrize("length", [0, 1, 127, 128, 129, 16383, 16384, 3_000_000])
def test_what_is_written_the_onnx_package_reads(length):
    entries = {PREFIX: "ü" * length, f"{PREFIX}.more": "2"}
    loaded = onnx.load_model_from_string(rewritten(with_metadata({"author": "somebody"}), entries))
    assert {p.key: p.value for p in loaded.metadata_props} == {"author": "somebody", **entries}
    assert runtime.parse_entries(loaded.SerializeToString()) == entries


def test_only_our_entries_are_ours():
    before = with_metadata({f"{PREFIX}.old": "x", "author": "somebody", PREFIX: "1"})
    after = onnx.load_model_from_string(rewritten(before, {PREFIX: "2"}))
    expected = onnx.load_model_from_string(before)
    assert {p.key: p.value for p in after.metadata_props} == {"author": "somebody", PREFIX: "2"}
    for proto in (after, expected):
        proto.ClearField("metadata_props")
    assert after == expected
    data = with_metadata({"author": "somebody"})
    again = rewritten(rewritten(data, {PREFIX: "1"}), {PREFIX: "2", f"{PREFIX}.x": "3"})
    assert b"".join(runtime.without_metadata(again)) == data


def test_what_is_no_message_is_a_value_error():
    data = with_metadata({PREFIX: "1"})
    for cut in range(1, len(data)):
        try:
            runtime.parse_entries(data[:cut])
        except ValueError:
            continue
        assert cut in [after for _, _, _, after in onnx_check.parse_fields(data)]  # between two fields
    for wrong in (b"\xff" * 11, b"\x00\x00", b"\x0b", b"\x0a\xff\xff\xff\xff\x0f", b"PK\x03\x04 a zip"):
        with pytest.raises(ValueError):
            runtime.parse_entries(wrong)


def test_very_many_fields_are_not_walked_through(monkeypatch):
    monkeypatch.setattr(onnx_check, "MAX_FIELDS", 10)
    with pytest.raises(ValueError, match="too many"):
        runtime.parse_entries(b"\x08\x01" * 11)


def flip(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def with_manifest(data, **changes):
    """A file whose hashes are right and whose manifest is not."""
    entries = runtime.parse_entries(data)
    entries["flawscope"] = json.dumps({**json.loads(entries["flawscope"]), **changes})
    entries[runtime.METADATA_SHA256] = runtime.metadata_hash(entries)
    file = io.BytesIO()
    runtime.write_entries(file, runtime.without_metadata(data), entries)
    return file.getvalue()


def foreign(data):
    return b"".join(runtime.without_metadata(data))


DAMAGED = {
    "empty": (lambda d: b"", "empty"),
    "cut short": (lambda d: d[: len(d) // 2], "damaged"),
    "cut after the network": (lambda d: foreign(d), "not a flawscope model"),
    "no onnx": (lambda d: b"\x80\x04 a pickle", "not a flawscope model"),
    "weights altered": (lambda d: flip(d, len(d) // 2), "altered"),
    "manifest altered": (lambda d: d.replace(b'"seed": 0', b'"seed": 1'), "manifest was altered"),
    "extra bytes": (lambda d: d + b"\x08\x08", "altered"),
    "newer": (lambda d: with_manifest(d, format=99), "upgrade"),
    "no calibration": (lambda d: with_manifest(d, calibration={}), "damaged"),
    "more samples": (lambda d: with_manifest(d, samples=[{}] * 4), "damaged"),
    "very many samples": (lambda d: with_manifest(d, samples=[{}] * 100_000), "damaged"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_bad_file_is_one_line(name, onnx_path, tmp_path):
    change, reason = DAMAGED[name]
    path = tmp_path / "bad.onnx"
    path.write_bytes(change(onnx_path.read_bytes()))
    with pytest.raises(InputError, match=f"^cannot use model {path}: .*{reason}"):
        flawscope.load(path)


def test_a_full_disk_is_told_as_such(onnx_path):
    class Full(io.BytesIO):
        def write(self, piece):
            raise OSError(errno.ENOSPC, "No space left on device")

    artefact = runtime.read(onnx_path)
    with pytest.raises(OSError, match="No space left"):
        runtime.NetworkFile.open(onnx_path).write_to(Full(), artefact)
