"""A probability under another temperature and bias of its logit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def logit(probability: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The logit of a probability, kept finite."""
    share = np.clip(probability, np.float32(1e-12), np.float32(1 - 1e-7))
    return np.asarray(np.log(share / (1 - share)), np.float32)


def warm(probability: npt.NDArray[np.float32], temperature: float, bias: float = 0.0) -> npt.NDArray[np.float32]:
    """A probability with its logit divided by the temperature, and the bias added; 0 stays 0."""
    if temperature == 1.0 and bias == 0.0:
        return probability
    scaled = logit(probability) / np.float32(temperature) + np.float32(bias)
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(scaled, -80, 80))) * (probability > 0), np.float32)
