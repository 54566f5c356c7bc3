"""Values of a network's variables that any interpreter can make again from their names, so that no file holds them."""

import zlib

import numpy as np


def seeded_value(name, shape):
    """Return a float32 array for a variable of google's network; all but the statistics of batch normalisation."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    kind = name.rsplit("/", 1)[1]
    if kind == "gamma":
        return rng.uniform(0.7, 1.3, shape).astype(np.float32)
    if kind in ("beta", "bias"):
        return rng.normal(0, 0.1, shape).astype(np.float32)
    if kind.startswith("WSM"):
        return np.float32(rng.uniform(-0.2, 1.5, shape))  # a negative weight counts as 0
    fan_in = shape[0] * shape[1] * (1 if "depthwise" in kind else shape[2])
    return rng.normal(0, (1 / fan_in) ** 0.5, shape).astype(np.float32)
