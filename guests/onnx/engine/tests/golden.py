#!/usr/bin/env python3
"""Makes the files beside it that the tests compare with, from packages of PyPI (ONNX and its test data: Apache-2.0; ONNX Runtime: MIT):

    python3 -m venv venv && venv/bin/pip install onnx==1.23.2 onnxruntime==1.32.0
    pip download --no-deps rapidocr-onnxruntime==1.4.4 && unzip rapidocr_onnxruntime-*.whl
    venv/bin/python golden.py nodes                                 # operators.pack: test data of the operators
    venv/bin/python golden.py unet                                  # unet.onnx and its values: a U-Net with random weights
    venv/bin/python golden.py unet --width 32 --size 256 --out FILE # the same as large as TrustMark's encoder
    venv/bin/pip install pillow && venv/bin/python golden.py pictures # text.png, and text-upside-down.jpg
    venv/bin/python golden.py classifier rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx

A pack is a list of files: the length of the name (u16, little-endian), the name, the length of the content (u32), the content. In a
folder of a pack are `model` and the tensors `input-N` and `output-N`, as NumPy saves them.
"""

import argparse
import io
import pathlib
import struct

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).parent

OPERATORS = set(
    """Abs Add AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv ConvTranspose DepthToSpace Div Elu
    Erf Exp Expand Flatten Floor Gather Gemm GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity LeakyRelu Log LogSoftmax
    MatMul Max MaxPool Min Mul Neg PRelu Pad Pow Reciprocal ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize Shape Sigmoid
    Slice Softmax Softplus Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Unsqueeze Upsample""".split()
)
TYPES = {TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL}
CASE_BYTES_MAX = 12_000


def npy(tensor):
    file = io.BytesIO()
    np.save(file, np.asarray(tensor, order="C"))
    return file.getvalue()


class Pack:
    def __init__(self):
        self.content = bytearray()

    def add(self, name, content):
        self.content += struct.pack("<H", len(name)) + name.encode() + struct.pack("<I", len(content)) + content

    def case(self, name, model, inputs, outputs):
        self.add(f"{name}/model", model.SerializeToString())
        for kind, tensors in (("input", inputs), ("output", outputs)):
            for at, tensor in enumerate(tensors):
                self.add(f"{name}/{kind}-{at}", npy(tensor))

    def write(self, path):
        path.write_bytes(self.content)
        print(f"{path}: {len(self.content)} bytes")


def nodes():
    from onnx.backend.test.case.node import collect_testcases

    pack, count = Pack(), 0
    for case in collect_testcases(None):
        graph = case.model.graph
        if not all(node.op_type in OPERATORS and node.domain == "" for node in graph.node):
            continue
        values = list(graph.input) + list(graph.output)
        if not all(value.type.tensor_type.elem_type in TYPES for value in values):
            continue
        inputs, outputs = case.data_sets[0]
        size = sum(np.asarray(tensor).nbytes for tensor in [*inputs, *outputs])
        if size > CASE_BYTES_MAX:
            continue
        pack.case(case.name, case.model, inputs, outputs)
        count += 1
    print(count, "cases")
    pack.write(HERE / "operators.pack")


def run(model, inputs):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def numbers(count):
    """The same numbers in any language: between -1 and 1, from a product of integers."""
    at = np.arange(count, dtype=np.uint64)
    hashed = (at * np.uint64(2654435761) + np.uint64(12345)) % np.uint64(1 << 32)
    return ((hashed >> np.uint64(8)).astype(np.float32) / np.float32(1 << 23)) - np.float32(1)


def classifier(path):
    model = onnx.load(path)
    pack = Pack()
    for shape in [(1, 3, 48, 192), (2, 3, 48, 96)]:
        picture = numbers(int(np.prod(shape))).reshape(shape)
        [output] = run(model, {model.graph.input[0].name: picture})
        print(shape, output)
        name = "x".join(map(str, shape))
        pack.add(f"{name}/output-0", npy(output))
    pack.write(HERE / "classifier.pack")


def pictures():
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (190, 44), (250, 248, 240))
    ImageDraw.Draw(picture).text((6, 3), "Hello lattice", font=ImageFont.load_default(size=30), fill=(20, 20, 30))
    picture.quantize(16).convert("RGB").save(HERE / "text.png", optimize=True)
    picture.rotate(180).save(HERE / "text-upside-down.jpg", quality=70)


def unet(width, size, out):
    """TrustMark's encoder in its architecture: a secret of 100 bits becomes a picture, which joins the cover through four levels down
    and up again. What comes out is the residual that is added to the cover."""
    random = np.random.default_rng(7)
    nodes, weights = [], []

    def weight(*shape):
        fan = int(np.prod(shape[1:])) or 1
        array = (random.standard_normal(shape) * np.sqrt(1.5 / fan)).astype(np.float32)
        return constant(array)

    def constant(array):
        name = f"w{len(weights)}"
        weights.append(numpy_helper.from_array(array, name))
        return name

    def node(operator, inputs, **attributes):
        name = f"v{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [name], name=f"/{operator}_{len(nodes)}", **attributes))
        return name

    def conv(x, inputs, outputs, stride=1):
        x = node("Conv", [x, weight(outputs, inputs, 3, 3), weight(outputs)], pads=[1] * 4, strides=[stride] * 2)
        return node("Relu", [x])

    def up(x, inputs, outputs):
        """Twice the size, padded on two sides for a window of two by two."""
        scales = constant(np.array([1, 1, 2, 2], np.float32))
        x = node("Resize", [x, "", scales], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
        x = node("Pad", [x, constant(np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64))], mode="constant")
        return node("Relu", [node("Conv", [x, weight(outputs, inputs, 2, 2), weight(outputs)])])

    side = size // 16
    secret = node("Gemm", ["secret", weight(3 * side * side, 100), weight(3 * side * side)], transB=1)
    secret = node("Reshape", [secret, constant(np.array([-1, 3, side, side], np.int64))])
    scales = constant(np.array([1, 1, 16, 16], np.float32))
    secret = node("Resize", [secret, "", scales], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    secret = node("Relu", [secret])
    both = node("Concat", ["cover", secret], axis=1)
    levels = [conv(both, 6, width)]
    for level in range(4):
        levels.append(conv(levels[-1], width << level, width << level + 1, stride=2))
    x = levels.pop()
    for level in range(3, -1, -1):
        channels = width << level
        x = up(x, 2 * channels, channels)
        joined = [x, levels.pop()] + ([both] if level == 0 else [])
        x = conv(node("Concat", joined, axis=1), 2 * channels + (6 if level == 0 else 0), channels)
    x = conv(x, width, width)
    x = node("Conv", [x, weight(width // 2, width, 1, 1), weight(width // 2)])
    x = node("Mul", [x, node("Sigmoid", [x])])
    x = node("Conv", [x, weight(3, width // 2, 1, 1), weight(3)])
    nodes.append(helper.make_node("Tanh", [x], ["residual"]))
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    inputs = [value("cover", [1, 3, size, size]), value("secret", [1, 100])]
    graph = helper.make_graph(nodes, "unet", inputs, [value("residual", [1, 3, size, size])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    cover = numbers(3 * size * size).reshape(1, 3, size, size)
    bits = (numbers(100) > 0).astype(np.float32).reshape(1, 100)
    out.with_suffix(".onnx").write_bytes(model.SerializeToString())
    with open(out.with_suffix(".inputs.npy"), "wb") as file:
        np.save(file, cover)
        np.save(file, bits)
    np.save(out.with_suffix(".output.npy"), run(model, {"cover": cover, "secret": bits})[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["nodes", "unet", "pictures", "classifier"])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--width", type=int, default=2)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "unet.onnx")
    arguments = parser.parse_args()
    if arguments.what == "nodes":
        nodes()
    elif arguments.what == "unet":
        unet(arguments.width, arguments.size, arguments.out)
    elif arguments.what == "pictures":
        pictures()
    else:
        classifier(arguments.model)
