"""From the network's input to probabilities on the same grid: the whole brain in one pass, in tiles where memory is short."""

from __future__ import annotations

import logging
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from model.engine import Engine
from model.preprocess import Inputs
from model.release import Card, LesionDefinition
from model.volume import Floats

Shape = tuple[int, int, int]

STEP = 16  # the network halves four times
SMALLEST_TILE = 64
MEMORY_SHARE = 0.85  # of what is free, for the engine
CGROUP = Path("/sys/fs/cgroup")

log = logging.getLogger(__name__)


class BrokenOutput(ArithmeticError):
    """The network gave values that are no numbers. Every comparison with them is false: it would look like a healthy brain."""


def probability(inputs: Inputs, engine: Engine, card: Card, tile: Shape | None = None) -> Floats:
    """Probabilities of lesion, tumour and brain, shape (3, i, j, k), in [0, 1], on the grid of the inputs.

    Parameters
    ----------
    tile : as `choose_tile` gave it; chosen now by default

    Raises
    ------
    BrokenOutput
    """
    return calibrated(raw_logits(inputs, engine, card, tile), card.lesion)


def raw_logits(inputs: Inputs, engine: Engine, card: Card, tile: Shape | None = None) -> Floats:
    """What the network says before any calibration, shape (3, i, j, k).

    Raises
    ------
    BrokenOutput
    """
    tile = tile or choose_tile(inputs, engine, card)
    if tile == inputs.head.shape:
        logits = engine.run(inputs.data)[0]
    else:
        log.warning("memory is short: running %s in tiles of %s", inputs.head.shape, tile)
        logits = _run_tiles(inputs.data, engine, tile, card.engine.tile_overlap_voxels)
    if np.isnan(logits.min()):
        raise BrokenOutput(f"{engine.name} in {engine.precision} gave values that are no numbers")
    return np.asarray(logits, np.float32)


def calibrated(logits: Floats, definition: LesionDefinition) -> Floats:
    """Probabilities in [0, 1], the lesion's after Platt scaling (logit / temperature + bias); `logits` is overwritten.

    References
    ----------
    Platt, J. (1999) Probabilistic outputs for support vector machines and comparisons to regularized likelihood methods
    """
    logits[0] /= definition.temperature
    logits[0] += definition.bias
    np.negative(logits, out=logits)
    np.clip(logits, -80, 80, out=logits)
    np.exp(logits, out=logits)
    logits += 1
    return np.asarray(np.reciprocal(logits, out=logits), np.float32)


def choose_tile(inputs: Inputs, engine: Engine, card: Card, available_bytes: float | None = None) -> Shape:
    """The whole of the inputs where memory suffices, else the largest tile that fits.

    Parameters
    ----------
    available_bytes : memory the engine may take; by default what machine and container leave (no limit on CUDA)
    """
    i, j, k = inputs.head.shape
    if available_bytes is None:
        available_bytes = np.inf if engine.name.endswith("cuda") else MEMORY_SHARE * free_memory()
    return tile_shape((i, j, k), card.engine.bytes_per_voxel, available_bytes, card.engine.tile_overlap_voxels)


def tile_flags(inputs: Inputs, tile: Shape) -> tuple[str, ...]:
    """Flag a result made in tiles: the network's norms see a part of the head at a time, and every figure was measured on whole heads."""
    if tile == inputs.head.shape:
        return ()
    sizes = " x ".join(map(str, tile))
    return (f"tiled: memory was short, the network saw {sizes} voxels at a time; the release was measured on whole heads",)


def free_memory() -> float:
    """Bytes this process may still take, with what it holds already: the machine's or the container's, whichever is less."""
    own = float(psutil.Process().memory_info().rss)
    free = float(psutil.virtual_memory().available)
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        try:
            free = min(free, float((CGROUP / limit).read_text()) - float((CGROUP / used).read_text()) + _reclaimable(limit))
        except (OSError, ValueError):
            continue  # no such hierarchy, or "max": no limit
    return free + own


def _reclaimable(limit: str) -> float:
    """File cache that the container's usage counts but the kernel would give back."""
    lines = (CGROUP / limit).with_name("memory.stat").read_text().splitlines()
    figures = dict(line.split(maxsplit=1) for line in lines)
    return float(figures.get("total_inactive_file", figures.get("inactive_file", 0)))


def tile_shape(shape: Shape, bytes_per_voxel: float, available_bytes: float, overlap: int) -> Shape:
    """The largest tile that fits, by cutting the longest side again and again; `shape` itself where it fits."""
    parts = [1, 1, 1]
    tile = list(shape)
    while np.prod(tile) * bytes_per_voxel > available_bytes:
        axis = max(range(3), key=lambda n: (tile[n] > SMALLEST_TILE, tile[n]))
        if tile[axis] <= SMALLEST_TILE:
            break
        parts[axis] += 1
        width = (shape[axis] + (parts[axis] - 1) * min(overlap, tile[axis] // 2)) / parts[axis]
        tile[axis] = max(SMALLEST_TILE, min(int(np.ceil(width / STEP)) * STEP, tile[axis] - STEP))
    return tile[0], tile[1], tile[2]


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    """Evenly spread first voxels of tiles that overlap by at least `overlap` (or half a tile)."""
    stride = max(1, tile - min(overlap, tile // 2))
    count = 1 + int(np.ceil(max(0, size - tile) / stride))
    return [round(n * (size - tile) / max(1, count - 1)) for n in range(count)]


def _run_tiles(data: Floats, engine: Engine, tile: Shape, overlap: int) -> Floats:
    shape = data.shape[2:]
    total: Floats | None = None
    weight = np.zeros(shape, np.float32)
    ramp = _ramp(tile, overlap)
    for start in product(*(_starts(size, t, overlap) for size, t in zip(shape, tile, strict=True))):
        i, j, k = (slice(s, s + t) for s, t in zip(start, tile, strict=True))
        logits = engine.run(np.ascontiguousarray(data[:, :, i, j, k]))[0]
        total = np.zeros((logits.shape[0], *shape), np.float32) if total is None else total
        total[:, i, j, k] += logits * ramp
        weight[i, j, k] += ramp
    if total is None:
        raise ValueError("no tile")
    return np.asarray(total / weight, np.float32)


def _ramp(tile: Shape, overlap: int) -> Floats:
    """Weight of a tile's voxels, falling linearly over the overlap and nearly 0 where the tile's border spoils the values."""
    sides: list[npt.NDArray[np.float64]] = []
    for size in tile:
        border = np.minimum(np.arange(size), np.arange(size)[::-1])
        sides.append(np.clip((border - 0.25 * overlap) / max(1.0, 0.5 * overlap), 1e-4, 1))
    return np.asarray(sides[0][:, None, None] * sides[1][None, :, None] * sides[2][None, None, :], np.float32)
