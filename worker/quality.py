"""What is wrong (refused) or unusual (flagged) about a series before it is segmented, from headers and pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.volume import Volume
from service.errors import Rejected
from worker.frames import Frame
from worker.geometry import Grid, Planes
from worker.pixels import is_lossy


def demand_one_stack(frames: Sequence[Frame], planes: Planes) -> None:
    pass


def demand_picture(frames: Sequence[Frame], minimum_values: int) -> None:
    pass


def describe(frames: Sequence[Frame], volume: Volume, grid: Grid) -> tuple[str, ...]:
    return ()
