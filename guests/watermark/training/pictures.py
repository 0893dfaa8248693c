"""Pictures to train with and to measure with, from packages and by procedure. None of them is part of this repository.

| package      | pictures                                        | licence                                                                 |
|--------------|-------------------------------------------------|-------------------------------------------------------------------------|
| scikit-image | photographs and textures of skimage/data         | public domain or CC0, or only a source is named: _fetchers.py beside them |
| scikit-learn | china.jpg, flower.jpg of sklearn/datasets/images  | CC BY 2.0: README.txt beside them                                         |
| matplotlib   | grace_hopper.jpg of mpl-data/sample_data          | public domain                                                           |

The packages are not imported, only looked for: pictures are files in their folders.
"""

import importlib.util
import pathlib

import numpy as np
from PIL import Image

SIDE = 128
FOLDERS = {"skimage": "data", "sklearn": "datasets/images", "matplotlib": "mpl-data/sample_data"}
# Never trained with: photographs of each package.
HELD_OUT = {"chelsea", "rocket", "china", "grace_hopper", "coffee"}
# Masks, icons and drawings of two colours.
NOT_PICTURES = {"phantom", "horse", "logo", "chessboard_GRAY", "chessboard_RGB", "microaneurysms", "Minduka_Present_Blue_Pack", "logo2", "color"}


def photographs(held_out):
    """RGB pictures by name, of those that are held out or of all others."""
    found = {}
    for package, folder in FOLDERS.items():
        spec = importlib.util.find_spec(package)
        root = pathlib.Path(spec.submodule_search_locations[0]) / folder
        for path in sorted([*root.glob("*.png"), *root.glob("*.jpg")]):
            if path.stem in NOT_PICTURES or (path.stem in HELD_OUT) != held_out:
                continue
            with Image.open(path) as image:
                image = image.convert("RGB")
            if min(image.size) >= SIDE:
                # Larger ones are mostly blur at this size.
                image.thumbnail((1024, 1024))
                found[path.stem] = image
    return found


def crop(random, image, side=None):
    """A part of a picture, of any size from `SIDE` up and of proportions up to 4:3, brought to a square of `side` or left as it is."""
    most = min(image.size)
    length = int(np.exp(random.uniform(np.log(SIDE), np.log(most + 1))))
    width, height = np.minimum(image.size, np.maximum(SIDE, length * random.uniform(0.75, 1.333, 2))).astype(int)
    left = int(random.integers(image.size[0] - width + 1))
    top = int(random.integers(image.size[1] - height + 1))
    part = image.crop((left, top, left + width, top + height))
    if random.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return part if side is None else part.resize((side, side), Image.Resampling.BILINEAR)


def procedural(random, side=SIDE):
    """A picture of no photograph: clouds of some roughness, or shapes on a slope of colours."""
    if random.random() < 0.5:
        frequencies = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]) + 1 / side
        planes = []
        for _ in range(3):
            noise = np.fft.rfft2(random.standard_normal((side, side))) / frequencies ** random.uniform(0.8, 2.2)
            plane = np.fft.irfft2(noise, (side, side))
            planes.append(plane / plane.std())
        planes = np.einsum("oc,chw->hwo", random.uniform(0, 1, (3, 3)), np.array(planes))
        values = 128 + planes * random.uniform(10, 60)
    else:
        y, x = np.mgrid[0:side, 0:side] / side
        values = random.uniform(0, 255, 3) + random.uniform(-120, 120, 3) * x[..., None] + random.uniform(-120, 120, 3) * y[..., None]
        for _ in range(int(random.integers(0, 12))):
            centre, radii = random.uniform(0, 1, 2), random.uniform(0.03, 0.4, 2)
            distance = np.abs((x - centre[0]) / radii[0]) ** 2 + np.abs((y - centre[1]) / radii[1]) ** 2
            if random.random() < 0.5:
                distance = np.maximum(np.abs(x - centre[0]) / radii[0], np.abs(y - centre[1]) / radii[1])
            values[distance < 1] = random.uniform(0, 255, 3)
        values += random.standard_normal(values.shape) * random.uniform(0, 8)
    return np.clip(values, 0, 255).astype(np.uint8)


def pool(seed, count):
    """Squares to train with, three of four from photographs: `count` by 3 by `SIDE` by `SIDE` bytes."""
    random = np.random.default_rng(seed)
    images = list(photographs(held_out=False).values())
    squares = np.empty((count, 3, SIDE, SIDE), np.uint8)
    for at in range(count):
        if random.random() < 0.25:
            square = procedural(random)
        else:
            square = np.asarray(crop(random, images[random.integers(len(images))], SIDE)).astype(np.float32)
            # Colours in another order, brighter or darker: there are few photographs.
            square = square[..., random.permutation(3)] if random.random() < 0.3 else square
            square = np.clip((square - 128) * random.uniform(0.6, 1.3) + 128 + random.uniform(-30, 30), 0, 255)
        squares[at] = square.transpose(2, 0, 1)
    return squares
