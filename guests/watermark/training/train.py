#!/usr/bin/env python3
"""Trains the two networks of the watermark, on one core, in about 20 minutes:

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/python train.py --out weights.npz
    venv/bin/python export.py weights.npz ../engine/models
    venv/bin/python measure.py ../engine/models

The same seed, number of steps and versions of packages give the same weights. After each hundred steps they are written with the state
of the optimiser; `--resume` goes on there.

What is learned is that bits come back, no more: the mark's energy is set, not learned. It begins strong, on pale pictures that nothing
happens to; step by step it becomes weaker, and pictures go through JPEG, are cut at their edges, and get brighter or darker.
"""

import argparse
import os
import pathlib
import time

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1 " + os.environ.get("XLA_FLAGS", "")
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"

import functools

import jax
import jax.numpy as jnp
import numpy as np

import nets
import pictures

STRENGTH_FIRST = 16.0


def ramp(progress, begin, end):
    """From 0 to 1 between two points of the training, both as parts of the whole."""
    return float(np.clip((progress - begin) / (end - begin), 0, 1))


def schedule(progress, arguments):
    rate = min(1.0, progress / 0.02) * 0.5 * (1 + np.cos(np.pi * ramp(progress, 0.45, 1))) + 0.005
    return {
        "rate": arguments.rate * rate,
        "contrast": 0.1 + 0.9 * ramp(progress, 0.02, 0.12),
        "strength": STRENGTH_FIRST * (arguments.strength / STRENGTH_FIRST) ** ramp(progress, 0.12, 0.5),
        "jpeg": 0.9 * (progress > 0.12),
        "quality_least": 90 - 45 * ramp(progress, 0.12, 0.5),
        "cut_most": 0.03 * ramp(progress, 0.25, 0.6),
        "light": ramp(progress, 0.25, 0.5),
    }


def stretched(begin, end):
    """The matrix that brings what is between two places of a side to the whole side."""
    side = nets.SIDE
    place = np.clip(begin + (np.arange(side) + 0.5) * (end - begin) / side - 0.5, 0, side - 1)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(side)[None, :])).astype(np.float32)


def draw(random, squares, plan, batch):
    """What one step is done with."""
    covers = squares[random.integers(len(squares), size=batch)]
    qualities = random.uniform(plan["quality_least"], 96, batch)
    luminance, chrominance = nets.quantisers(qualities)
    cuts = random.uniform(0, plan["cut_most"] * nets.SIDE, 4)
    return {
        "covers": covers[..., ::-1] if random.random() < 0.5 else covers,
        "bits": random.choice(np.array([-1, 1], np.float32), (batch, nets.BITS)),
        "contrast": np.float32(plan["contrast"]),
        "strength": np.float32(plan["strength"]),
        "is_soft": random.random(batch) < 0.5,
        "is_jpeg": random.random(batch) < plan["jpeg"],
        "luminance": luminance,
        "chrominance": chrominance,
        "rows": stretched(cuts[0], nets.SIDE - cuts[1]),
        "columns": stretched(cuts[2], nets.SIDE - cuts[3]),
        "gain": np.float32(1 + plan["light"] * random.uniform(-0.15, 0.15, batch)),
        "shift": np.float32(plan["light"] * random.uniform(-12, 12, batch)),
    }


def attacked(picture, drawn, is_cut):
    each = lambda values: values[:, None, None, None]
    picture = nets.rounded(jnp.clip(picture, 0, 255))
    picture = jnp.where(each(drawn["is_jpeg"]), nets.jpeg(picture, drawn["luminance"], drawn["chrominance"]), picture)
    if is_cut:
        picture = drawn["rows"] @ picture @ drawn["columns"].T
    return jnp.clip((picture - 127.5) * each(drawn["gain"]) + 127.5 + each(drawn["shift"]), 0, 255)


def loss(weights, drawn, is_cut):
    covers = (drawn["covers"].astype(jnp.float32) - 127.5) * drawn["contrast"] + 127.5
    mark = nets.encode(weights, covers, drawn["bits"], drawn["strength"])
    soft = nets.SOFTEN @ mark @ nets.SOFTEN.T
    mark = jnp.where(drawn["is_soft"][:, None, None, None], soft, mark)
    agreement = nets.decode(weights, attacked(covers + mark, drawn, is_cut)) * drawn["bits"]
    return jnp.mean(jax.nn.softplus(-agreement)), jnp.mean(agreement > 0)


@functools.partial(jax.jit, static_argnames="is_cut", donate_argnums=0)
def advance(state, drawn, rate, is_cut):
    """One step of Adam, with gradients of at most 1 in all."""
    weights, means, squares, count = state
    (value, accuracy), gradients = jax.value_and_grad(loss, has_aux=True)(weights, drawn, is_cut)
    norm = jnp.sqrt(sum(jnp.sum(gradient**2) for gradient in gradients.values()))
    gradients = {name: gradient * jnp.minimum(1, 1 / (norm + 1e-9)) for name, gradient in gradients.items()}
    count = count + 1
    means = {name: 0.9 * means[name] + 0.1 * gradients[name] for name in weights}
    squares = {name: 0.99 * squares[name] + 0.01 * gradients[name] ** 2 for name in weights}
    moved = lambda name: (means[name] / (1 - 0.9**count)) / (jnp.sqrt(squares[name] / (1 - 0.99**count)) + 1e-8)
    weights = {name: weights[name] - rate * moved(name) for name in weights}
    return (weights, means, squares, count), value, accuracy


def save(path, state, step):
    weights, means, squares, count = state
    arrays = {**weights, "step": step, "count": count}
    for kind, values in (("mean", means), ("square", squares)):
        arrays.update({f"{kind}/{name}": value for name, value in values.items()})
    unfinished = path.with_suffix(".unfinished.npz")
    np.savez(unfinished, **arrays)
    unfinished.replace(path)


def load(path):
    arrays = dict(np.load(path))
    names = [f"{name}.{kind}" for name in nets.shapes() for kind in ("weight", "bias")]
    part = lambda prefix: {name: jnp.array(arrays[prefix + name]) for name in names}
    return (part(""), part("mean/"), part("square/"), jnp.array(arrays["count"])), int(arrays["step"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--stop", type=int, help="after this step, for a trial: the rest of the schedule stays as it is")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--strength", type=float, default=2.8, help="root mean square of the mark, in steps of a pixel's value")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--pool", type=int, default=5000, help="squares of 128 by 128 to train with")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("weights.npz"))
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    squares = pictures.pool(arguments.seed, arguments.pool)
    print(len(squares), "squares of", sorted(pictures.photographs(held_out=False)), flush=True)
    weights = {name: jnp.array(value) for name, value in nets.initial(arguments.seed).items()}
    zeros = lambda: {name: jnp.zeros_like(value) for name, value in weights.items()}
    state, first = (weights, zeros(), zeros(), jnp.array(0.0)), 0
    if arguments.resume:
        state, first = load(arguments.out)
    begin, values, accuracies = time.monotonic(), [], []
    for step in range(first, arguments.stop or arguments.steps):
        plan = schedule(step / arguments.steps, arguments)
        random = np.random.default_rng([arguments.seed, step])
        is_cut = plan["cut_most"] > 0 and random.random() < 0.5
        drawn = draw(random, squares, plan, arguments.batch)
        state, value, accuracy = advance(state, drawn, np.float32(plan["rate"]), is_cut)
        values.append(float(value))
        accuracies.append(float(accuracy))
        if (step + 1) % 100 == 0:
            save(arguments.out, state, step + 1)
            pace = (time.monotonic() - begin) / (step + 1 - first)
            print(
                f"step {step + 1}: loss {np.mean(values):.4f}, bits {100 * np.mean(accuracies):.2f} %, strength {plan['strength']:.1f}, "
                f"quality from {plan['quality_least']:.0f}, {pace:.3f} s a step",
                flush=True,
            )
            values, accuracies = [], []


if __name__ == "__main__":
    main()
