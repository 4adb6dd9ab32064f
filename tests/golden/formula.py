"""The weights behind the golden numbers: a pure function of name, shape and seed."""

import zlib

import numpy as np


def formula(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The float32 tensor that the golden run put at `key` of the released state dict."""
    generator = np.random.default_rng([seed, zlib.crc32(key.encode())])
    noise = generator.standard_normal(shape).astype(np.float32)
    if key.endswith("running_var"):
        return 1 + 0.1 * np.abs(noise)
    if len(shape) == 1 and key.endswith("weight"):
        return 1 + 0.1 * noise
    return 0.05 * noise
