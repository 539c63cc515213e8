"""Small ONNX files that do harm when they are loaded, each one change away from a network that may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
SIDE = 8

#: Name → (what makes the file, what the error says).
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {}

Make = Callable[[], onnx.ModelProto | bytes]


def bomb(message: str) -> Callable[[Make], Make]:
    """Keep a function in :data:`BOMBS`."""

    def keep(make: Make) -> Make:
        def content() -> bytes:
            made = make()
            return made if isinstance(made, bytes) else made.SerializeToString()

        BOMBS[make.__name__] = (content, message)
        return make

    return keep


def constant(name: str, value: Any, dtype: Any = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def model(
    nodes: Iterable[onnx.NodeProto] = (),
    constants: Iterable[onnx.TensorProto] = (),
    *,
    functions: Sequence[onnx.FunctionProto] = (),
    opsets: Sequence[tuple[str, int]] = (("", 18),),
    last: str = "x",
    **fields: Any,
) -> onnx.ModelProto:
    """Return ``nodes`` and what makes an output of ``last``; input ``x`` is ``[batch, 3, 8, 8]``."""
    graph = helper.make_graph(
        [*nodes, helper.make_node("Relu", [last], ["y"])],
        "bomb",
        [helper.make_tensor_value_info("x", FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        list(constants),
        **fields,
    )
    imports = [helper.make_opsetid(*opset) for opset in opsets]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=9)


def function(
    name: str, nodes: Sequence[onnx.NodeProto], domain: str = "fer_edge", **more: Any
) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("fer_edge", 1)]
    return helper.make_function(domain, name, ["a"], ["b"], nodes, imports, **more)


def external(tensor: onnx.TensorProto, location: str = "/etc/passwd") -> onnx.TensorProto:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


node = helper.make_node
OWN = (("", 18), ("fer_edge", 1))
LOST = "has external data"
GRAPH = "holds a graph, a tensor or a reference"
GROWS = "expands to .* bytes while the file is loaded"
UNKNOWN_SIZE = "depends on computed data"
OTHER_DATA = "do not fit its shape"


# Data in other files.


@bomb(LOST)
def external_constant() -> onnx.ModelProto:
    return model([node("Add", ["x", "c"], ["z"])], [external(constant("c", [1], np.float32))], last="z")


@bomb(LOST)
def external_constant_that_nothing_reads() -> onnx.ModelProto:
    return model(constants=[external(constant("c", np.zeros(5000), np.float32))])


@bomb(LOST)
def external_location_with_data_in_the_file() -> onnx.ModelProto:
    tensor = constant("c", [1], np.float32)
    tensor.external_data.add(key="location", value="weights.bin")
    return model(constants=[tensor])


@bomb(LOST)
def external_constant_of_a_node() -> onnx.ModelProto:
    return model([node("Constant", [], ["c"], value=external(constant("", [1], np.float32)))])


@bomb(LOST)
def external_constant_in_a_function() -> onnx.ModelProto:
    nodes = [
        node("Constant", [], ["c"], value=external(constant("", [1], np.float32))),
        node("Add", ["a", "c"], ["b"]),
    ]
    call = node("F", ["x"], ["z"], domain="fer_edge")
    return model([call], functions=[function("F", nodes)], opsets=OWN, last="z")


# Graphs inside nodes, and functions.


@bomb(GRAPH)
def endless_loop() -> onnx.ModelProto:
    """A Loop of 2⁶² turns."""
    state = [
        helper.make_tensor_value_info(n, k, s) for n, k, s in (("i", INT64, []), ("go", TensorProto.BOOL, []))
    ]
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Identity", ["v"], ["w"])],
        "body",
        [*state, helper.make_tensor_value_info("v", FLOAT, None)],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", FLOAT, None),
        ],
    )
    constants = [constant("turns", 2**62), constant("true", True, np.bool_)]
    return model([node("Loop", ["turns", "true", "x"], ["z"], body=body)], constants, last="z")


@bomb(GRAPH)
def branch() -> onnx.ModelProto:
    arm = helper.make_graph(
        [node("Identity", ["x"], ["o"])], "arm", [], [helper.make_tensor_value_info("o", FLOAT, None)]
    )
    return model(
        [node("If", ["true"], ["z"], then_branch=arm, else_branch=arm)],
        [constant("true", True, np.bool_)],
        last="z",
    )


@bomb(GRAPH)
def graph_of_a_harmless_operator() -> onnx.ModelProto:
    arm = helper.make_graph([], "arm", [], [helper.make_tensor_value_info("x", FLOAT, None)])
    return model([node("Relu", ["x"], ["z"], body=arm)], last="z")


@bomb("calls another function")
def functions_that_call_functions() -> onnx.ModelProto:
    """Each calls the one before ten times: ten thousand million nodes when expanded."""
    functions = [function("F0", [node("Relu", ["a"], ["b"])])]
    for level in range(1, 4):
        names = ["a", *(f"t{i}" for i in range(9)), "b"]
        nodes = [node(f"F{level - 1}", [s], [t], domain="fer_edge") for s, t in pairwise(names)]
        functions.append(function(f"F{level}", nodes))
    return model([node("F3", ["x"], ["z"], domain="fer_edge")], functions=functions, opsets=OWN, last="z")


@bomb("calls another function")
def function_that_calls_itself() -> onnx.ModelProto:
    nodes = [node("F", ["a"], ["b"], domain="fer_edge")]
    return model(
        [node("F", ["x"], ["z"], domain="fer_edge")], functions=[function("F", nodes)], opsets=OWN, last="z"
    )


@bomb("is not one of FER-Edge")
def function_in_place_of_an_operator() -> onnx.ModelProto:
    return model(functions=[function("Relu", [node("Neg", ["a"], ["b"])], domain="")])


@bomb("is not one of FER-Edge")
def function_of_many_nodes() -> onnx.ModelProto:
    names = ["a", *(f"t{i}" for i in range(99)), "b"]
    nodes = [node("Relu", [s], [t]) for s, t in pairwise(names)]
    return model(functions=[function("F", nodes)], opsets=OWN)


@bomb(GRAPH)
def reference_to_an_attribute() -> onnx.ModelProto:
    leaky = node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="alpha")
    call = node("F", ["x"], ["z"], domain="fer_edge")
    return model([call], functions=[function("F", [leaky])], opsets=OWN, last="z")


@bomb("does not compute")
def function_without_its_output() -> onnx.ModelProto:
    call = node("F", ["x"], ["z"], domain="fer_edge")
    return model([call], functions=[function("F", [node("Relu", ["a"], ["c"])])], opsets=OWN, last="z")


# Constants that grow while the file is loaded.


@bomb("the operator 'ConstantOfShape'")
def filled() -> onnx.ModelProto:
    return model([node("ConstantOfShape", ["n"], ["c"])], [constant("n", [2**33])])


@bomb(GROWS)
def expanded() -> onnx.ModelProto:
    """OpenVINO 2026.4.1 does not load these 168 bytes within 25 s."""
    return model(
        [
            node("Expand", ["one", "n"], ["c"]),
            node("ReduceSum", ["c"], ["s"]),
            node("Add", ["x", "s"], ["z"]),
        ],
        [constant("one", [1], np.float32), constant("n", [2**30])],
        last="z",
    )


@bomb(GROWS)
def tiled() -> onnx.ModelProto:
    return model(
        [node("Tile", ["c", "n"], ["d"])], [constant("c", [1, 2], np.float32), constant("n", [2**30])]
    )


@bomb(GROWS)
def padded() -> onnx.ModelProto:
    return model(
        [node("Pad", ["c", "n"], ["d"])], [constant("c", [1, 2], np.float32), constant("n", [0, 2**30])]
    )


@bomb("the operator 'Range'")
def counted() -> onnx.ModelProto:
    return model(
        [node("Range", ["a", "b", "d"], ["c"])], [constant("a", 0), constant("b", 2**40), constant("d", 1)]
    )


@bomb(GROWS)
def doubled() -> onnx.ModelProto:
    """Forty concatenations of a value with itself: ONNX Runtime 1.31.1 takes 7 s and 2.6 GB to load these 1583 bytes."""
    nodes = [node("Concat", [f"c{i}"] * 2, [f"c{i + 1}"], axis=0) for i in range(40)]
    return model(nodes, [constant("c0", [1], np.float32)])


@bomb(GROWS)
def added_to_itself_across() -> onnx.ModelProto:
    """[N, 1] + [1, N]."""
    return model(
        [node("Unsqueeze", ["c", "one"], ["d"]), node("Add", ["c", "d"], ["e"])],
        [constant("c", np.zeros(4000), np.float32), constant("one", [1])],
    )


@bomb(GROWS)
def gathered() -> onnx.ModelProto:
    return model(
        [node("Gather", ["c", "i"], ["d"])],
        [constant("c", np.zeros((1, 4000)), np.float32), constant("i", np.zeros(4000))],
    )


@bomb("expands to .* bytes")
def many_copies() -> onnx.ModelProto:
    """Each is small enough."""
    nodes = [node("Expand", ["one", "n"], [f"c{i}"]) for i in range(50)]
    return model(nodes, [constant("one", [1], np.float32), constant("n", [2**22])])


@bomb("a constant computed by Resize")
def enlarged() -> onnx.ModelProto:
    return model(
        [node("Resize", ["c", "", "scales"], ["d"])],
        [
            constant("c", np.ones((1, 1, 2, 2)), np.float32),
            constant("scales", [1, 1, 20000, 20000], np.float32),
        ],
    )


@bomb("a constant computed by MatMul")
def multiplied() -> onnx.ModelProto:
    """Matrices of constants, multiplied again and again: ONNX Runtime 1.31.1 takes 17 s and 1.2 GB to load 4 MB."""
    nodes = [node("MatMul", [f"c{i}", "c0"], [f"c{i + 1}"]) for i in range(300)]
    return model(nodes, [constant("c0", np.zeros((1000, 1000)), np.float32)])


@bomb("reads a number above 2147483648")
def overflowing_size() -> onnx.ModelProto:
    return model(
        [node("Expand", ["x", "n"], ["z"])],
        [constant("n", [2**62, 3, 8, 8])],
        last="z",
    )


@bomb("exceeds 2147483648")
def overflowing_padding() -> onnx.ModelProto:
    return model(
        [node("MaxPool", ["x"], ["z"], kernel_shape=[1, 1], pads=[2**62, 0, 2**62, 0])],
        last="z",
    )


# What an input leads to.


@bomb("needs .* bytes per face")
def enlarged_input() -> onnx.ModelProto:
    return model(
        [node("Resize", ["x", "", "scales"], ["z"])],
        [constant("scales", [1, 1, 4000, 4000], np.float32)],
        last="z",
    )


@bomb("needs .* bytes per face")
def doubled_input() -> onnx.ModelProto:
    nodes = [node("Concat", [f"v{i}"] * 2, [f"v{i + 1}"], axis=1) for i in range(40)]
    return model([node("Relu", ["x"], ["v0"]), *nodes], last="v40")


@bomb("needs .* bytes per face")
def many_large_values() -> onnx.ModelProto:
    """Thirty of 0.75 GiB, all needed at the end."""
    nodes = [node("Tile", ["x", "n"], [f"v{i}"]) for i in range(30)]
    return model(
        [*nodes, node("Sum", [f"v{i}" for i in range(30)], ["z"])],
        [constant("n", [1, 1, 1024, 1024])],
        last="z",
    )


@bomb("needs more than 1e\\+12 operations per face")
def work() -> onnx.ModelProto:
    """One convolution after the other, each of small weights."""
    nodes = [node("Tile", ["x", "n"], ["v0"])]
    nodes += [
        node("MaxPool", [f"v{i}"], [f"v{i + 1}"], kernel_shape=[511, 511], pads=[255] * 4) for i in range(40)
    ]
    return model(nodes, [constant("n", [1, 1, 64, 64])], last="v40")


@bomb(UNKNOWN_SIZE)
def size_from_the_input() -> onnx.ModelProto:
    nodes = [
        node("Cast", ["x"], ["i"], to=INT64),
        node("Reshape", ["i", "all"], ["n"]),
        node("Expand", ["x", "n"], ["z"]),
    ]
    return model(nodes, [constant("all", [-1])], last="z")


@bomb("more than 8")
def many_dimensions() -> onnx.ModelProto:
    nodes = [node("Unsqueeze", [f"v{i}", "axes"], [f"v{i + 1}"]) for i in range(50)]
    return model([node("Relu", ["x"], ["v0"]), *nodes], [constant("axes", [0])], last="v50")


# Constants that are not what they say.


@bomb(OTHER_DATA)
def constant_without_data() -> onnx.ModelProto:
    return model(constants=[TensorProto(name="c", data_type=FLOAT, dims=[2**20, 2**20])])


@bomb(OTHER_DATA)
def constant_with_less_data() -> onnx.ModelProto:
    return model(constants=[TensorProto(name="c", data_type=FLOAT, dims=[1000, 1000], raw_data=bytes(4096))])


@bomb(OTHER_DATA)
def large_constant_with_less_data() -> onnx.ModelProto:
    return model(
        constants=[TensorProto(name="c", data_type=FLOAT, dims=[1000, 1000], raw_data=bytes(3_999_999))]
    )


@bomb(OTHER_DATA)
def constant_with_more_data() -> onnx.ModelProto:
    return model(constants=[TensorProto(name="c", data_type=FLOAT, dims=[1], raw_data=bytes(4096))])


@bomb(OTHER_DATA)
def constant_whose_sizes_overflow() -> onnx.ModelProto:
    """2³² × 2³² elements are none in 64 bits."""
    return model(constants=[TensorProto(name="c", data_type=FLOAT, dims=[2**32, 2**32], raw_data=b"")])


@bomb("has a negative dimension")
def constant_of_negative_size() -> onnx.ModelProto:
    return model(constants=[TensorProto(name="c", data_type=FLOAT, dims=[-1, -4], raw_data=bytes(16))])


@bomb(OTHER_DATA)
def constant_with_data_twice() -> onnx.ModelProto:
    return model(
        constants=[TensorProto(name="c", data_type=FLOAT, dims=[2], raw_data=bytes(8), float_data=[1, 2])]
    )


@bomb("elements of type 8")
def constant_of_text() -> onnx.ModelProto:
    return model(
        constants=[TensorProto(name="c", data_type=TensorProto.STRING, dims=[1], string_data=[b"x" * 999])]
    )


@bomb("sparse constants")
def sparse_constant() -> onnx.ModelProto:
    """One number of 2⁴⁰."""
    values, places = constant("c", [1], np.float32), constant("", [5])
    return model(sparse_initializer=[helper.make_sparse_tensor(values, places, [2**40])])


@bomb("holds a graph, a tensor or a reference .sparse_tensor")
def sparse_constant_of_a_node() -> onnx.ModelProto:
    values, places = constant("c", [1], np.float32), constant("", [5])
    return model(
        [node("Constant", [], ["c"], sparse_value=helper.make_sparse_tensor(values, places, [2**40]))]
    )


@bomb("two have the name 'c'")
def two_constants_of_one_name() -> onnx.ModelProto:
    return model(constants=[constant("c", [1], np.float32)] * 2)


# Graphs that are none.


@bomb("more than 10000 nodes")
def many_nodes() -> onnx.ModelProto:
    """OpenVINO 2026.4.1 takes 33 s for a chain of 10,000, and 8 s for one of 5,000."""
    names = ["x", *(f"v{i}" for i in range(20_001))]
    nodes = [node("Relu", [s], [t]) for s, t in pairwise(names)]
    return model(nodes, last=names[-1])


@bomb("more than 10000 nodes")
def many_calls() -> onnx.ModelProto:
    """Each of sixty nodes."""
    inner = ["a", *(f"t{i}" for i in range(59)), "b"]
    body = [node("Relu", [s], [t]) for s, t in pairwise(inner)]
    names = ["x", *(f"v{i}" for i in range(400))]
    calls = [node("F", [s], [t], domain="fer_edge") for s, t in pairwise(names)]
    return model(calls, functions=[function("F", body)], opsets=OWN, last=names[-1])


@bomb("more than 512")
def long_name() -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["z" * 100_000])])


@bomb("more than 256 inputs and outputs")
def many_inputs_of_a_node() -> onnx.ModelProto:
    return model([node("Sum", ["x"] * 1000, ["z"])], last="z")


@bomb("has more than 64 elements")
def long_list() -> onnx.ModelProto:
    return model([node("MaxPool", ["x"], ["z"], kernel_shape=[2] * 100_000)], last="z")


@bomb("at most 32 attributes")
def many_attributes() -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["z"], **{f"a{i}": 1 for i in range(1000)})], last="z")


@bomb("at most 4 MiB")
def large_text() -> onnx.ModelProto:
    made = model()
    made.doc_string = "x" * (5 << 20)
    return made


@bomb("more than 100000 protobuf fields")
def many_parts() -> bytes:
    return b"\x32\x00" * 1_000_000  # empty documentation, again and again


@bomb("at most 4 MiB")
def numbers_outside_raw_data() -> onnx.ModelProto:
    """A parser holds many times the size of a constant that is written so."""
    tensor = TensorProto(name="c", data_type=TensorProto.INT8, dims=[5_000_000], int32_data=bytes(5_000_000))
    return model(constants=[tensor])


@bomb("expected 1 input, found 2")
def two_inputs() -> onnx.ModelProto:
    made = model()
    made.graph.input.append(helper.make_tensor_value_info("more", FLOAT, [1]))
    return made


@bomb("expected 1 input, found 0")
def no_input() -> onnx.ModelProto:
    made = model(constants=[constant("x", [1], np.float32)])
    del made.graph.input[:]
    return made


@bomb("all dimensions of its input except the batch must be static")
def input_of_any_size() -> onnx.ModelProto:
    made = model()
    made.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    return made


@bomb("needs .* bytes per face")
def input_of_a_huge_batch() -> onnx.ModelProto:
    made = model()
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**40
    return made


@bomb("which no earlier node computes")
def circle() -> onnx.ModelProto:
    return model([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"])], last="b")


@bomb("two nodes compute 'z'")
def two_nodes_of_one_output() -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["z"]), node("Neg", ["x"], ["z"])], last="z")


@bomb("no node computes its output")
def output_from_nowhere() -> onnx.ModelProto:
    made = model()
    made.graph.output.append(helper.make_tensor_value_info("else", FLOAT, None))
    return made


@bomb("1 to 16 outputs of different names, found 101")
def many_outputs() -> onnx.ModelProto:
    made = model()
    made.graph.output.extend(helper.make_tensor_value_info(f"o{i}", FLOAT, None) for i in range(100))
    return made


@bomb("found '' 18, 'evil.domain' 1")
def unknown_domain() -> onnx.ModelProto:
    return model(
        [node("Relu", ["x"], ["z"], domain="evil.domain")], opsets=(("", 18), ("evil.domain", 1)), last="z"
    )


@bomb("unknown operator 'com.microsoft'::'FusedConv'")
def operator_of_onnxruntime() -> onnx.ModelProto:
    return model([node("FusedConv", ["x"], ["z"], domain="com.microsoft")], last="z")


@bomb("unknown operator 'fer_edge'::'SelfAttention'")
def attention_without_body() -> onnx.ModelProto:
    return model([node("SelfAttention", ["x"] * 5, ["z"], domain="fer_edge")], opsets=OWN, last="z")


@bomb("expected ONNX opset 13 to 23")
def future_operators() -> onnx.ModelProto:
    return model(opsets=(("", 9999),))


@bomb("training information")
def training() -> onnx.ModelProto:
    made = model()
    made.training_info.add()
    return made


@bomb("cannot be inferred")
def shapes_that_do_not_fit() -> onnx.ModelProto:
    return model([node("MatMul", ["x", "c"], ["z"])], [constant("c", np.zeros((5, 2)), np.float32)], last="z")


@bomb("expected 1 graph, found 2")
def two_graphs() -> bytes:
    """Protobuf joins them."""
    return model().SerializeToString() + model().SerializeToString()


@bomb("expected 1 graph, found 0")
def nothing() -> bytes:
    return b""


@bomb("damaged or not ONNX")
def text() -> bytes:
    return b"<html>not found</html>\n" * 100


@bomb("damaged or not ONNX")
def nested_without_end() -> bytes:
    """Graphs in graphs, deeper than a parser goes."""
    inner = b""
    for _ in range(500):
        attribute = b"\x32" + _varint(len(inner)) + inner  # AttributeProto.g
        part = b"\x2a" + _varint(len(attribute)) + attribute  # NodeProto.attribute
        inner = b"\x0a" + _varint(len(part)) + part  # GraphProto.node
    return b"\x3a" + _varint(len(inner)) + inner


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])
