"""Checks the network in an .onnx file against lists of allowed parts, before ONNX Runtime loads it.

Whoever makes a file can make its hashes right: they prove nothing about the network. ONNX Runtime runs
anything: a Loop that never ends, partly already while it loads, or functions that call each other 2^30 times.
Everything that is not listed here is therefore refused: operators, and also fields of the format, above all
those for graphs inside graphs, functions and other files. An accepted network ends after as many steps as it
has nodes. It may still need much memory; only the session can limit that.
"""

from __future__ import annotations

from collections.abc import Iterator

METADATA_PROPS = 14  # field of ModelProto
MAX_FIELDS = 1_000_000  # a real model has a few thousand
MAX_NODES = 20_000  # ours have some hundred; loading this many takes one or two seconds

# All that networks, their search and their quantisation need, and nothing that holds a graph, draws random
# numbers, or works on text, sequences or pictures in files. https://onnx.ai/onnx/operators
_STANDARD = """
    Abs Add And Atan Ceil Celu Clip Cos Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid
    HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow
    Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Sub Sum Swish Tanh Where Xor
    BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor
    Attention AveragePool BatchNormalization Conv ConvTranspose Dropout GlobalAveragePool GlobalMaxPool
    GridSample GroupNormalization InstanceNormalization LayerNormalization LogSoftmax LpNormalization
    LpPool LRN MaxPool MeanVarianceNormalization RMSNormalization RotaryEmbedding Softmax
    Einsum Gemm MatMul ArgMax ArgMin CumSum TopK
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare
    Cast CastLike Concat Constant ConstantOfShape DepthToSpace Expand EyeLike Flatten Gather GatherElements
    GatherND Identity NonZero OneHot Pad Range Reshape Resize ScatterElements ScatterND Shape Size Slice
    SpaceToDepth Split Squeeze Tile Transpose Trilu Unique Unsqueeze
    ConvInteger DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearConv QLinearMatMul QuantizeLinear
"""
# What ONNX Runtime's own quantisation adds. https://onnxruntime.ai/docs/performance/model-optimizations
_MICROSOFT = """
    DequantizeLinear DynamicQuantizeMatMul MatMulIntegerToFloat MatMulNBits QGemm QLinearAdd
    QLinearAveragePool QLinearConcat QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean
    QLinearSigmoid QLinearSoftmax QuantizeLinear
"""
OPERATORS = {
    "": frozenset(_STANDARD.split()),
    "ai.onnx": frozenset(_STANDARD.split()),  # another name for the same
    "com.microsoft": frozenset(_MICROSOFT.split()),
}

# Numbers of the fields that may occur, message by message: onnx.proto of ONNX 1.23
GRAPH = 7
NODE = 1
INITIALIZER = 5
OP_TYPE = 4
ATTRIBUTE = 5
DOMAIN = 7
NAME = 1
NUMBER = 3
TENSOR = 5
NUMBERS = 8
DATA_TYPE = 2
EXTERNAL_DATA = 13
DATA_LOCATION = 14
# not: training, functions, devices
_MODEL_FIELDS = {*range(1, 9), METADATA_PROPS}
# not: sparse initializers
_GRAPH_FIELDS = {NODE, 2, INITIALIZER, 10, 11, 12, 13, 14, 16}
# not: overloads, devices
_NODE_FIELDS = {1, 2, 3, OP_TYPE, ATTRIBUTE, 6, DOMAIN, 9}
# not: graphs, sparse tensors, lists of texts or tensors, references
_ATTRIBUTE_FIELDS = {NAME, 2, NUMBER, 4, TENSOR, 7, NUMBERS, 13, 20}
# not: text, segments
_TENSOR_FIELDS = {1, DATA_TYPE, 4, 5, 7, 8, 9, 10, 11, 12, EXTERNAL_DATA, DATA_LOCATION, 16}
# Of data. Not: text, which may be of any length; complex numbers
_DATA_TYPES = set(range(1, 23)) - {8, 14, 15}  # no texts, no complex numbers

Buffer = bytes | memoryview
Field = tuple[int, int, int, int]  # number, where it begins, where its content begins, where it ends
FieldContent = tuple[int, int, int]  # a field's number, where its content begins, where it ends


def check(data: Buffer) -> None:
    """Raise ValueError, with the reason, unless an .onnx file is made of allowed parts alone."""
    nodes = 0
    for number, begin, end in _allowed_fields(data, 0, len(data), _MODEL_FIELDS, "a model"):
        if number != GRAPH:
            continue
        for part, start, stop in _allowed_fields(data, begin, end, _GRAPH_FIELDS, "a graph"):
            if part == NODE:
                nodes += 1
                if nodes > MAX_NODES:
                    raise ValueError(f"its network has more than {MAX_NODES} nodes")
                _check_node(data, start, stop)
            elif part == INITIALIZER:
                _check_tensor(data, start, stop)


def _check_node(data: Buffer, begin: int, end: int) -> None:
    parts = list(_allowed_fields(data, begin, end, _NODE_FIELDS, "a node"))
    operator, domain = (_read_text(data, parts, number) for number in (OP_TYPE, DOMAIN))
    if operator not in OPERATORS.get(domain, ()):
        raise ValueError(
            f"its network has an operator that is not allowed, {f'{domain} {operator}'.strip()!r:.80}"
        )
    for number, start, stop in parts:
        if number == ATTRIBUTE:
            _check_attribute(data, start, stop)


def _check_attribute(data: Buffer, begin: int, end: int) -> None:
    parts = list(_allowed_fields(data, begin, end, _ATTRIBUTE_FIELDS, "an attribute"))
    name = _read_text(data, parts, NAME)
    for number, start, stop in parts:
        if number == TENSOR:
            _check_tensor(data, start, stop)
        elif name == "value_string" or (
            number == NUMBER
            and name in ("to", "dtype", "output_dtype")
            and _read_integer(data, start, stop) not in {0, *_DATA_TYPES}
        ):
            raise ValueError("its network makes text, or another type of data that is not allowed")
        elif number in (NUMBER, NUMBERS) and not name.startswith("value_") and _is_64_bit(data, start, stop):
            # OpenVINO takes the lower half: a stride of 2^32 is then a division by 0, which ends the process
            raise ValueError(f"its network has settings beyond all measure, {name!r:.80}")


def _check_tensor(data: Buffer, begin: int, end: int) -> None:
    for number, start, stop in _allowed_fields(data, begin, end, _TENSOR_FIELDS, "a tensor"):
        if number == EXTERNAL_DATA or (number == DATA_LOCATION and _read_integer(data, start, stop)):
            raise ValueError("its weights lie in other files")  # anywhere on the disk
        if number == DATA_TYPE and _read_integer(data, start, stop) not in _DATA_TYPES:
            raise ValueError("its network has tensors of text, or of another type that is not allowed")


def _allowed_fields(
    data: Buffer, begin: int, end: int, numbers: set[int], what: str
) -> Iterator[FieldContent]:
    """Yield the fields of a message; raise ValueError for a field whose number is not allowed."""
    for number, _, start, stop in parse_fields(data, begin, end):
        if number not in numbers:
            raise ValueError(f"its network has {what} with parts that are not allowed (field {number})")
        yield number, start, stop


def _read_text(data: Buffer, parts: list[FieldContent], number_wanted: int) -> str:
    """Return the text of the field with this number, or an empty text; raise ValueError for several fields.

    Of several fields, readers could take different ones.
    """
    found = [bytes(data[start:stop]) for number, start, stop in parts if number == number_wanted]
    if len(found) > 1:
        raise ValueError("its network says one thing twice")
    return found[0].decode(errors="replace") if found else ""


def _read_integer(data: Buffer, begin: int, end: int) -> int:
    """Read an integer of any width: a value that wraps around is not taken for a small one."""
    return sum((data[k] & 127) << 7 * (k - begin) for k in range(begin, min(end, begin + 10)))


def _is_64_bit(data: Buffer, begin: int, end: int) -> bool:
    """Whether an integer from `begin` to `end` is beyond 32 bits; a negative n is written as 2^64 + n."""
    while begin < end:
        value, begin = read_varint(data, begin, end)
        if 2**31 <= value % 2**64 < 2**64 - 2**31:
            return True
    return False


# ------------------------------------------------------------------------------------------ protocol buffers
# A message is fields one after the other, each a tag, for most of them a length, and the content.
# https://protobuf.dev/programming-guides/encoding


def parse_fields(data: Buffer, begin: int = 0, end: int | None = None) -> Iterator[Field]:
    """Yield the fields of a message; raise ValueError if the data are no message."""
    end = len(data) if end is None else end
    for _ in range(MAX_FIELDS):
        if begin == end:
            return
        tag, content = read_varint(data, begin, end)
        kind = tag & 7
        if kind == 0:
            after = read_varint(data, content, end)[1]
        elif kind == 2:
            length, content = read_varint(data, content, end)
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


def read_varint(data: Buffer, begin: int, end: int) -> tuple[int, int]:
    """Read a number of seven bits a byte, lowest first; return it and the place where it ends."""
    value = 0
    for k in range(min(10, end - begin)):
        byte = data[begin + k]
        value |= (byte & 127) << 7 * k
        if byte < 128:
            return value, begin + k + 1
    raise ValueError("a number that does not end")
