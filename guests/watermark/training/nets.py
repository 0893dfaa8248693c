"""The two networks, and what happens to a picture between them.

Pictures are planes (batch, colour, row, column) of values from 0 to 255; within the networks cells of 4 by 4 pixels have their channels
last. Convolutions are products of matrices: on one core that is the quickest way to their gradients.
"""

import jax
import jax.numpy as jnp
import numpy as np

SIDE = 128
# Bits on the way: 32 of the payload and 32 of its checksum.
BITS = 64
# The bits are spread over 8 by 8 blocks of so many channels.
BLOCKS, SPREAD = 8, 6
# Where a picture changes by less or more than this (of 2) around a pixel, the mark gets no weaker or stronger any more.
TEXTURE = (0.04, 0.12)


def shapes():
    """Name: (shape of the weights, inputs that one output sees)."""
    return {
        "encoder.spread": ((BITS, BLOCKS * BLOCKS * SPREAD), BITS),
        "encoder.cover": ((4, 4, 3, 24), 48),
        "encoder.rise": ((SPREAD, 4, 4, 16), SPREAD),
        "encoder.mix": ((3, 3, 40, 32), 360),
        "encoder.deepen": ((3, 3, 32, 32), 288),
        "encoder.residual": ((1, 1, 48, 12), 48),
        "decoder.look": ((8, 8, 3, 32), 192),
        "decoder.deepen": ((3, 3, 32, 32), 288),
        "decoder.gather": ((4, 4, 32, SPREAD), 512),
        "decoder.bits": ((BLOCKS * BLOCKS * SPREAD, BITS), BLOCKS * BLOCKS * SPREAD),
    }


def initial(seed):
    random = np.random.default_rng(seed)
    weights = {}
    for name, (shape, fan) in shapes().items():
        weights[name + ".weight"] = (random.standard_normal(shape) * np.sqrt(1.6 / fan)).astype(np.float32)
        weights[name + ".bias"] = np.zeros(shape[-1], np.float32)
    return weights


def cells(planes, size):
    """Squares of `size` pixels as the channels of one place: row, column, colour."""
    batch, colours, height, width = planes.shape
    planes = planes.reshape(batch, colours, height // size, size, width // size, size)
    return planes.transpose(0, 2, 4, 3, 5, 1).reshape(batch, height // size, width // size, size * size * colours)


def planes(x, size):
    """The reverse of `cells`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, size, size, channels // (size * size))
    return x.transpose(0, 5, 1, 3, 2, 4).reshape(batch, -1, height * size, width * size)


def window(x, weight, bias):
    """A convolution of stride 1 over cells that are padded already."""
    side = weight.shape[0]
    height, width = x.shape[1] - side + 1, x.shape[2] - side + 1
    seen = [x[:, i : i + height, j : j + width] for i in range(side) for j in range(side)]
    return jnp.concatenate(seen, -1) @ weight.reshape(-1, weight.shape[-1]) + bias


def conv3(weights, name, x):
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jax.nn.relu(window(padded, weights[name + ".weight"], weights[name + ".bias"]))


def twice(x):
    """Twice as many rows and columns, in between the old ones."""
    for axis in (-2, -1):
        first, last = jnp.take(x, jnp.array([0]), axis), jnp.take(x, jnp.array([-1]), axis)
        count = x.shape[axis]
        before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, count - 1, axis=axis % x.ndim)], axis)
        after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, count, axis=axis % x.ndim), last], axis)
        both = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis % x.ndim + 1)
        x = both.reshape(x.shape[: axis % x.ndim] + (2 * count,) + x.shape[axis % x.ndim + 1 :])
    return x


def banded(side, reach, inside):
    """The matrix that makes each value a mean of those up to `reach` away, of weights by their distance."""
    distance = np.abs(np.arange(side)[:, None] - np.arange(side)[None, :])
    matrix = np.where(distance <= reach, np.take(inside, np.minimum(distance, reach)), 0.0)
    return (matrix / matrix.sum(1, keepdims=True)).astype(np.float32)


BOX = banded(SIDE, 2, [1, 1, 1])
# What enlarging a mark to a large picture and shrinking that again does to it.
SOFTEN = banded(SIDE, 1, [4, 1])


def texture(cover):
    """How much stronger a mark may be where more is going on. `cover` is between -1 and 1."""
    grey = cover.mean(1, keepdims=True)
    change = jnp.abs(grey - BOX @ grey @ BOX.T)
    return jnp.clip(BOX @ change @ BOX.T, *TEXTURE)


def encode(weights, cover, bits, strength):
    """What is added to a picture (of 0 to 255) so that it carries bits (-1 or 1): its root mean square is `strength`."""
    cover = cover / 127.5 - 1
    name = "encoder.cover"
    seen = jax.nn.relu(cells(cover, 4) @ weights[name + ".weight"].reshape(48, -1) + weights[name + ".bias"])
    spread = bits @ weights["encoder.spread.weight"] + weights["encoder.spread.bias"]
    spread = spread.reshape(-1, BLOCKS, BLOCKS, SPREAD)
    rise = weights["encoder.rise.weight"]
    risen = jnp.einsum("bijc,cklo->bikjlo", spread, rise).reshape(-1, 4 * BLOCKS, 4 * BLOCKS, rise.shape[-1])
    risen = risen + weights["encoder.rise.bias"]
    x = conv3(weights, "encoder.mix", jnp.concatenate([seen, risen], -1))
    x = conv3(weights, "encoder.deepen", x)
    x = window(jnp.concatenate([x, risen], -1), weights["encoder.residual.weight"], weights["encoder.residual.bias"])
    mark = twice(planes(x, 2)) * texture(cover)
    return mark * (strength / jnp.sqrt(jnp.mean(mark * mark, (1, 2, 3), keepdims=True) + 1e-6))


def decode(weights, picture):
    """How sure each bit is 1: above 0, and how much."""
    picture = jnp.pad(picture / 127.5 - 1, ((0, 0), (0, 0), (2, 2), (2, 2)))
    look = weights["decoder.look.weight"]
    look = look.reshape(2, 4, 2, 4, 3, -1).transpose(0, 2, 1, 3, 4, 5).reshape(2, 2, 48, -1)
    x = jax.nn.relu(window(cells(picture, 4), look, weights["decoder.look.bias"]))
    x = conv3(weights, "decoder.deepen", x)
    batch, side, _, channels = x.shape
    x = x.reshape(batch, side // 4, 4, side // 4, 4, channels).transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, 16 * channels)
    x = x @ weights["decoder.gather.weight"].reshape(16 * channels, -1) + weights["decoder.gather.bias"]
    return x.reshape(batch, -1) @ weights["decoder.bits.weight"] + weights["decoder.bits.bias"]


LUMINANCE = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92], [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
CHROMINANCE = np.full((8, 8), 99)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
FROM_YCC = np.linalg.inv(TO_YCC).astype(np.float32)


def quantisers(qualities):
    """Of luminance and of colour, for each quality: the tables of JPEG's appendix K, scaled as is usual."""
    scale = np.where(qualities < 50, 5000 / qualities, 200 - 2 * qualities)[:, None, None]
    return [np.clip((table * scale + 50) // 100, 1, 255).astype(np.float32) for table in (LUMINANCE, CHROMINANCE)]


def cosines(side):
    """The cosine transform of each 8 values of `side`."""
    k, n = np.mgrid[0:8, 0:8]
    block = np.cos((2 * n + 1) * k * np.pi / 16) * np.where(k == 0, np.sqrt(1 / 8), 0.5)
    return np.kron(np.eye(side // 8), block).astype(np.float32)


def rounded(x):
    """To integers, with the gradient of what does nothing."""
    return x + jax.lax.stop_gradient(jnp.round(x) - x)


def quantised(plane, table):
    side = plane.shape[-1]
    transform = cosines(side)
    table = jnp.tile(table, (1, side // 8, side // 8))
    return transform.T @ (rounded(transform @ plane @ transform.T / table) * table) @ transform


def jpeg(picture, luminance, chrominance):
    """What JPEG leaves of a picture, with colours at half the size."""
    y, blue, red = jnp.moveaxis(jnp.einsum("oc,bchw->bohw", TO_YCC, picture), 1, 0)
    half = lambda plane: plane.reshape(-1, SIDE // 2, 2, SIDE // 2, 2).mean((2, 4))
    y = quantised(y - 128, luminance) + 128
    blue, red = (twice(quantised(half(plane), chrominance)) for plane in (blue, red))
    return jnp.clip(jnp.einsum("oc,bchw->bohw", FROM_YCC, jnp.stack([y, blue, red], 1)), 0, 255)
