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
MAX_VARINT_BYTES = 10  # bytes of a number of 64 bits, with seven bits a byte
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
# Numbers of the types of data. Not 8, text, which may be of any length; nor 14 and 15, complex numbers
_DATA_TYPES = set(range(1, 23)) - {8, 14, 15}

Buffer = bytes | memoryview
Field = tuple[int, int, int, int]  # number, where it begins, where its content begins, where it ends
FieldContent = tuple[int, int, int]  # a field's number, where its content begins, where it ends


def check(data: Buffer) -> None:
    """Raise ValueError, with the reason, if an .onnx file has a part that is not allowed."""
    node_count = 0
    for model_field, begin, end in _allowed_fields(data, 0, len(data), _MODEL_FIELDS, "a model"):
        if model_field != GRAPH:
            continue
        for graph_field, start, stop in _allowed_fields(data, begin, end, _GRAPH_FIELDS, "a graph"):
            if graph_field == NODE:
                node_count += 1
                if node_count > MAX_NODES:
                    raise ValueError(f"its network has more than {MAX_NODES} nodes")
                _check_node(data, start, stop)
            elif graph_field == INITIALIZER:
                _check_tensor(data, start, stop)


def _check_node(data: Buffer, begin: int, end: int) -> None:
    """Raise ValueError where a node has an operator or an attribute that is not allowed."""
    fields = list(_allowed_fields(data, begin, end, _NODE_FIELDS, "a node"))
    operator = _read_text(data, fields, OP_TYPE)
    domain = _read_text(data, fields, DOMAIN)
    if operator not in OPERATORS.get(domain, ()):
        full_name = f"{domain} {operator}".strip()
        raise ValueError(f"its network has an operator that is not allowed, {full_name!r:.80}")
    for field_number, start, stop in fields:
        if field_number == ATTRIBUTE:
            _check_attribute(data, start, stop)


def _check_attribute(data: Buffer, begin: int, end: int) -> None:
    """Raise ValueError if an attribute asks for a forbidden type of data, or has a number beyond 32 bits."""
    fields = list(_allowed_fields(data, begin, end, _ATTRIBUTE_FIELDS, "an attribute"))
    name = _read_text(data, fields, NAME)
    is_data_type = name in ("to", "dtype", "output_dtype")
    for field_number, start, stop in fields:
        if field_number == TENSOR:
            _check_tensor(data, start, stop)
            continue
        is_forbidden_type = False
        if field_number == NUMBER and is_data_type:
            # 0: the type is left open
            is_forbidden_type = _read_integer(data, start, stop) not in {0, *_DATA_TYPES}
        if is_forbidden_type or name == "value_string":
            raise ValueError("its network makes text, or another type of data that is not allowed")
        is_setting = field_number in (NUMBER, NUMBERS) and not name.startswith("value_")
        if is_setting and _exceeds_32_bits(data, start, stop):
            # OpenVINO reads only the lower 32 bits: a stride of 2^32 becomes 0, and the division by it ends
            # the process
            raise ValueError(f"its network has settings beyond all measure, {name!r:.80}")


def _check_tensor(data: Buffer, begin: int, end: int) -> None:
    """Raise ValueError where a tensor lies in another file, or has a type that is not allowed."""
    for field_number, start, stop in _allowed_fields(data, begin, end, _TENSOR_FIELDS, "a tensor"):
        lies_elsewhere = field_number == EXTERNAL_DATA
        if field_number == DATA_LOCATION:
            lies_elsewhere = _read_integer(data, start, stop) != 0  # 0: in this file
        if lies_elsewhere:  # the other file could be any file on the disk
            raise ValueError("its weights lie in other files")
        if field_number == DATA_TYPE and _read_integer(data, start, stop) not in _DATA_TYPES:
            raise ValueError("its network has tensors of text, or of another type that is not allowed")


def _allowed_fields(
    data: Buffer, begin: int, end: int, numbers: set[int], what: str
) -> Iterator[FieldContent]:
    """Yield the fields of a message; raise ValueError for a field whose number is not allowed."""
    for number, _, start, stop in parse_fields(data, begin, end):
        if number not in numbers:
            raise ValueError(f"its network has {what} with parts that are not allowed (field {number})")
        yield number, start, stop


def _read_text(data: Buffer, parts: list[FieldContent], field_number: int) -> str:
    """Return the text of the field with this number, empty if there is none.

    Raises:
        ValueError: There are several such fields, and programs differ in which of them they read.
    """
    texts = [bytes(data[start:stop]) for number, start, stop in parts if number == field_number]
    if len(texts) > 1:
        raise ValueError("its network says one thing twice")
    return texts[0].decode(errors="replace") if texts else ""


def _read_integer(data: Buffer, begin: int, end: int) -> int:
    """Read an integer without limiting it to 64 bits: a value beyond them stays large, and does not wrap."""
    value = 0
    for index, byte in enumerate(data[begin : min(end, begin + MAX_VARINT_BYTES)]):
        value += (byte & 127) << (7 * index)
    return value


def _exceeds_32_bits(data: Buffer, begin: int, end: int) -> bool:
    """Whether any of the integers from `begin` to `end` does not fit into 32 bits, with sign."""
    while begin < end:
        value, begin = read_varint(data, begin, end)
        unsigned = value % 2**64  # a negative n is written as 2^64 + n
        if 2**31 <= unsigned < 2**64 - 2**31:
            return True
    return False


# ------------------------------------------------------------------------------------------ protocol buffers
# A message is fields one after the other, each a tag, for most of them a length, and the content.
# https://protobuf.dev/programming-guides/encoding


def parse_fields(data: Buffer, begin: int = 0, end: int | None = None) -> Iterator[Field]:
    """Yield each field of a message: its number, where it begins, where its content begins, where it ends.

    Args:
        data: Bytes that contain the message.
        begin: Where the message begins in `data`.
        end: Where the message ends in `data`; None: at the end of `data`.

    Raises:
        ValueError: The data are no message.
    """
    end = len(data) if end is None else end
    for _ in range(MAX_FIELDS):
        if begin == end:
            return
        tag, content_begin = read_varint(data, begin, end)
        number, wire_type = tag >> 3, tag & 7  # the lower three bits: how the content is stored
        if wire_type == 0:  # a number of seven bits a byte
            _, field_end = read_varint(data, content_begin, end)
        elif wire_type == 1:  # a number of 64 bits
            field_end = content_begin + 8
        elif wire_type == 2:  # a length, and as many bytes
            length, content_begin = read_varint(data, content_begin, end)
            field_end = content_begin + length
        elif wire_type == 5:  # a number of 32 bits
            field_end = content_begin + 4
        else:
            raise ValueError("a field of no known kind")
        if field_end > end or not number:
            raise ValueError("a field that reaches beyond its message")
        yield number, begin, content_begin, field_end
        begin = field_end
    raise ValueError("too many fields")


def read_varint(data: Buffer, begin: int, end: int) -> tuple[int, int]:
    """Read a number with seven bits per byte, lowest first; return the number, and where it ends."""
    value = 0
    for index in range(min(MAX_VARINT_BYTES, end - begin)):
        byte = data[begin + index]
        value |= (byte & 127) << (7 * index)
        if byte < 128:  # the highest bit is set in all bytes but the last
            return value, begin + index + 1
    raise ValueError("a number that does not end")
