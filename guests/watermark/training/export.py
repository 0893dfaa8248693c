#!/usr/bin/env python3
"""Writes weights of `train.py` as two models in ONNX:

    python3 export.py weights.npz FOLDER

The mark may be stronger than it was in training: decoding gets surer, and pictures change more.

| model        | inputs                                                       | output                                              |
|--------------|--------------------------------------------------------------|-----------------------------------------------------|
| encoder.onnx | `picture` [1, 3, 128, 128], between -1 and 1; `bits` [1, 64], -1 or 1 | `mark` [1, 3, 128, 128]: what is added to values of 0 to 255 |
| decoder.onnx | `picture` [1, 3, 128, 128], between -1 and 1                    | `bits` [1, 64]: 1 if above 0, and surer the further  |
"""

import argparse
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import nets

OPSET = 17


class Graph:
    def __init__(self, arrays):
        self.arrays, self.nodes, self.constants = arrays, [], []

    def constant(self, name, values, kind=np.float32):
        self.constants.append(numpy_helper.from_array(np.array(values, dtype=kind, order="C"), name))
        return name

    def node(self, operator, inputs, output, **attributes):
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def weights(self, name, arrange=lambda weight: weight):
        weight, bias = self.arrays[name + ".weight"], self.arrays[name + ".bias"]
        return [self.constant(name + ".weight", arrange(weight)), self.constant(name + ".bias", bias)]

    def conv(self, x, name, output, stride=1, pad=0):
        weights = self.weights(name, lambda weight: weight.transpose(3, 2, 0, 1))
        return self.node("Conv", [x, *weights], output, strides=[stride] * 2, pads=[pad] * 4)

    def relu(self, x):
        return self.node("Relu", [x], x + ".positive")

    def write(self, path, name, inputs, output):
        value = lambda pair: helper.make_tensor_value_info(pair[0], TensorProto.FLOAT, pair[1])
        graph = helper.make_graph(self.nodes, name, [value(pair) for pair in inputs], [value(output)], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="watermark/training")
        onnx.checker.check_model(model, full_check=True)
        content = model.SerializeToString(deterministic=True)
        path.write_bytes(content)
        print(f"{path}: {len(content)} bytes")


PICTURE = ("picture", [1, 3, nets.SIDE, nets.SIDE])
BITS = ("bits", [1, nets.BITS])
BLOCKS, SPREAD = nets.BLOCKS, nets.SPREAD
LATENT = BLOCKS * BLOCKS * SPREAD


def box(graph, x, output):
    return graph.node("AveragePool", [x], output, kernel_shape=[5, 5], pads=[2] * 4)


def encoder(arrays, strength, path):
    graph = Graph(arrays)
    seen = graph.relu(graph.conv("picture", "encoder.cover", "seen", stride=4))
    # Training keeps channels last, ONNX first.
    to_planes = lambda x: x.reshape(-1, BLOCKS, BLOCKS, SPREAD).transpose(0, 3, 1, 2).reshape(-1, LATENT)
    weight = graph.constant("encoder.spread.weight", to_planes(arrays["encoder.spread.weight"]))
    bias = graph.constant("encoder.spread.bias", to_planes(arrays["encoder.spread.bias"])[0])
    spread = graph.node("Gemm", ["bits", weight, bias], "spread.flat")
    spread = graph.node("Reshape", [spread, graph.constant("spread.shape", [1, SPREAD, BLOCKS, BLOCKS], np.int64)], "spread")
    weights = graph.weights("encoder.rise", lambda weight: weight.transpose(0, 3, 1, 2))
    risen = graph.node("ConvTranspose", [spread, *weights], "risen", strides=[4, 4])
    x = graph.node("Concat", [seen, risen], "both", axis=1)
    x = graph.relu(graph.conv(x, "encoder.mix", "mix", pad=1))
    x = graph.relu(graph.conv(x, "encoder.deepen", "deepen", pad=1))
    x = graph.node("Concat", [x, risen], "deepen.both", axis=1)
    x = graph.conv(x, "encoder.residual", "residual.cells")
    x = graph.node("DepthToSpace", [x], "residual.half", blocksize=2)
    scales = graph.constant("residual.scales", [1, 1, 2, 2])
    x = graph.node("Resize", [x, "", scales], "residual", mode="linear", coordinate_transformation_mode="half_pixel")
    grey = graph.node("ReduceMean", ["picture"], "grey", axes=[1])
    change = graph.node("Abs", [graph.node("Sub", [grey, box(graph, grey, "grey.around")], "change.signed")], "change")
    limits = [graph.constant(f"texture.{at}", limit) for at, limit in zip(("least", "most"), nets.TEXTURE)]
    texture = graph.node("Clip", [box(graph, change, "change.around"), *limits], "texture")
    x = graph.node("Mul", [x, texture], "textured")
    mean = graph.node("ReduceMean", [graph.node("Mul", [x, x], "energy")], "energy.mean", axes=[1, 2, 3])
    mean = graph.node("Add", [mean, graph.constant("energy.least", 1e-6)], "energy.positive")
    gain = graph.node("Div", [graph.constant("strength", strength), graph.node("Sqrt", [mean], "energy.root")], "gain")
    graph.node("Mul", [x, gain], "mark")
    graph.write(path, "encoder", [PICTURE, BITS], ("mark", PICTURE[1]))


def decoder(arrays, path):
    graph = Graph(arrays)
    x = graph.relu(graph.conv("picture", "decoder.look", "look", stride=4, pad=2))
    x = graph.relu(graph.conv(x, "decoder.deepen", "deepen", pad=1))
    x = graph.conv(x, "decoder.gather", "gather", stride=4)
    x = graph.node("Reshape", [x, graph.constant("gather.shape", [1, LATENT], np.int64)], "gather.flat")
    weight = arrays["decoder.bits.weight"].reshape(BLOCKS, BLOCKS, SPREAD, nets.BITS).transpose(2, 0, 1, 3).reshape(LATENT, nets.BITS)
    weights = [graph.constant("decoder.bits.weight", weight), graph.constant("decoder.bits.bias", arrays["decoder.bits.bias"])]
    graph.node("Gemm", [x, *weights], "bits")
    graph.write(path, "decoder", [PICTURE], BITS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--strength", type=float, default=3.4, help="root mean square of the mark, in steps of a pixel's value")
    arguments = parser.parse_args()
    arrays = dict(np.load(arguments.weights))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    encoder(arrays, arguments.strength, arguments.folder / "encoder.onnx")
    decoder(arrays, arguments.folder / "decoder.onnx")
