"""Grey pixels of more than 8 bits -> 8 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_grey(pixels: NDArray[np.generic], full_scale: float | None) -> NDArray[np.uint8]:
    """Scale pixels to 0..255, rounded to nearest.

    Args:
        pixels: grey values (H, W), whole or not.
        full_scale: the value of white. None where the format does not say: the smallest of 1 (only
            for values that are not whole), 255 and 65535 that none exceeds; with values below 0 or
            above 65535 the darkest becomes 0 and the brightest 255.

    Raises:
        ValueError: a value is not a number or not finite.
    """
    values = pixels.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("some pixels are not finite numbers")
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if full_scale is None and low >= 0:
        scales = (255.0, 65535.0) if pixels.dtype.kind in "iu" else (1.0, 255.0, 65535.0)
        full_scale = next((scale for scale in scales if high <= scale), None)
    if full_scale is None:
        low, high = float(values.min()), float(values.max())
        values, full_scale = values - low, high - low or 1.0
    return np.clip(np.rint(values * (255.0 / full_scale)), 0, 255).astype(np.uint8)
