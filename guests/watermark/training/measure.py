#!/usr/bin/env python3
"""Measures models of `export.py` on photographs that training has not seen, with the JPEG of Pillow and with ONNX Runtime:

    python3 measure.py FOLDER

Of each photograph: itself, and parts of it. What is done to a picture before its bits are read is a line of the table: how many of the 64
bits are right, of how many pictures all 32 bits of the payload come back, and of how many pictures without a mark one is read.
"""

import argparse
import io
import itertools
import pathlib
import zlib

import numpy as np
import onnxruntime
from PIL import Image

import pictures

SIDE = pictures.SIDE
# As in ../engine/src/code.rs.
DOUBTFUL, FLIPS = 24, 4


def resampling(source, target):
    """As in ../../picture/src/lib.rs: a mean of those around each place, with weights that fall off linearly."""
    step = source / target
    reach = max(step, 1)
    centres = (np.arange(target)[:, None] + 0.5) * step
    weights = np.maximum(0, 1 - np.abs(np.arange(source)[None, :] + 0.5 - centres) / reach)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def resized(planes, height, width):
    return resampling(planes.shape[1], height) @ planes @ resampling(planes.shape[2], width).T


def to_planes(image):
    return np.asarray(image, np.float32).transpose(2, 0, 1)


def to_image(planes):
    return Image.fromarray(np.clip(np.round(planes), 0, 255).astype(np.uint8).transpose(1, 2, 0))


def code(payload):
    """64 bits, the first of the payload first."""
    whole = payload << 32 | zlib.crc32(payload.to_bytes(4, "big"))
    return np.array([whole >> (63 - at) & 1 for at in range(64)])


def checksum_of(bits):
    whole = int("".join(map(str, bits)), 2)
    return zlib.crc32((whole >> 32).to_bytes(4, "big")) ^ (whole & 0xFFFFFFFF)


NOTHING = checksum_of([0] * 64)
# What turning a bit does to the checksum; the last one turns nothing.
COLUMNS = np.array([checksum_of(np.eye(64, dtype=int)[at]) ^ NOTHING for at in range(64)] + [0])
# Places among the doubtful bits that are tried together, the fewest first.
TRIED = np.array([
    [*places, *[DOUBTFUL] * (FLIPS - count)] for count in range(FLIPS + 1) for places in itertools.combinations(range(DOUBTFUL), count)
])  # fmt: skip


def payload(logits):
    """The 32 bits, or none: with the fewest of the doubtful bits turned, so that the checksum is right."""
    bits = (logits > 0).astype(int)
    doubtful = np.append(np.argsort(np.abs(logits), kind="stable")[:DOUBTFUL], 64)
    left = checksum_of(bits) ^ np.bitwise_xor.reduce(COLUMNS[doubtful][TRIED], axis=1)
    [fitting] = np.nonzero(left == 0)
    if not len(fitting):
        return None
    turned = np.append(bits, 0)
    turned[doubtful[TRIED[fitting[0]]]] ^= 1
    return int("".join(map(str, turned[:32])), 2)


class Models:
    def __init__(self, folder):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = lambda name: onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
        self.encoder, self.decoder = session("encoder.onnx"), session("decoder.onnx")

    def mark(self, image, bits):
        planes = to_planes(image)
        small = resized(planes, SIDE, SIDE)[None] / 127.5 - 1
        [mark] = self.encoder.run(None, {"picture": small, "bits": (2.0 * bits - 1).astype(np.float32)[None]})
        return to_image(planes + resized(mark[0], *planes.shape[1:]))

    def read(self, image):
        small = resized(to_planes(image), SIDE, SIDE)[None] / 127.5 - 1
        return self.decoder.run(None, {"picture": small})[0][0]


def compressed(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file).convert("RGB")


def scaled(image, factor):
    return image.resize([max(1, round(side * factor)) for side in image.size], Image.Resampling.LANCZOS)


def cut(image, part):
    width, height = image.size
    return image.crop((round(width * part), round(height * part), round(width * (1 - part)), round(height * (1 - part))))


ATTACKS = {
    "nothing": lambda image: image,
    "JPEG, quality 90": lambda image: compressed(image, "JPEG", quality=90),
    "JPEG, quality 75": lambda image: compressed(image, "JPEG", quality=75),
    "JPEG, quality 50": lambda image: compressed(image, "JPEG", quality=50),
    "JPEG, quality 30": lambda image: compressed(image, "JPEG", quality=30),
    "WebP, quality 75": lambda image: compressed(image, "WEBP", quality=75),
    "three quarters of the size, JPEG 75": lambda image: compressed(scaled(image, 0.75), "JPEG", quality=75),
    "1 % cut off at each side, JPEG 75": lambda image: compressed(cut(image, 0.01), "JPEG", quality=75),
    "3 % cut off at each side, JPEG 75": lambda image: compressed(cut(image, 0.03), "JPEG", quality=75),
    "a tenth brighter, JPEG 75": lambda image: compressed(image.point(lambda value: min(255, value * 1.1)), "JPEG", quality=75),
}


def samples(seed, parts):
    """Photographs as they are, and parts of them."""
    random = np.random.default_rng(seed)
    held_out = pictures.photographs(held_out=True)
    print("held out:", ", ".join(held_out))
    for image in held_out.values():
        yield image
        for _ in range(parts):
            yield pictures.crop(random, image)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--parts", type=int, default=39, help="of each photograph")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    models = Models(arguments.folder)
    random = np.random.default_rng(arguments.seed)
    noise, right, whole, found, count = [], dict.fromkeys(ATTACKS, 0), dict.fromkeys(ATTACKS, 0), dict.fromkeys(ATTACKS, 0), 0
    for image in samples(arguments.seed, arguments.parts):
        sent = int(random.integers(1 << 32))
        bits = code(sent)
        marked = models.mark(image, bits)
        error = np.mean((to_planes(marked) - to_planes(image)) ** 2)
        noise.append(10 * np.log10(255**2 / error))
        for name, attack in ATTACKS.items():
            logits = models.read(attack(marked))
            right[name] += np.mean((logits > 0) == bits)
            whole[name] += payload(logits) == sent
            found[name] += payload(models.read(attack(image))) is not None
        count += 1
    print(f"{count} pictures; PSNR {np.mean(noise):.1f} dB, of one picture at least {np.min(noise):.1f} dB")
    print("| before reading | bits | all 32 bits | found without a mark |\n|---|---|---|---|")
    for name in ATTACKS:
        print(f"| {name} | {100 * right[name] / count:.2f} % | {100 * whole[name] / count:.1f} % | {found[name]} |")


if __name__ == "__main__":
    main()
