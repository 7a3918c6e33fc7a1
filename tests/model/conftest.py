"""A head of pure formulas on any grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from model.release import Card, Release
from model.volume import Affine, Volume
from tests.tiny import write_release


@dataclass(frozen=True, eq=False)
class FormulaHead:
    """Ellipsoids in patient millimetres, so that the truth on any grid needs no resampling."""

    centre_ras: tuple[float, float, float] = (12.0, -20.0, 31.0)
    lesion_ras: tuple[float, float, float] = (40.0, -10.0, 55.0)
    lesion_radii: tuple[float, float, float] = (16.0, 20.0, 17.0)

    def lesion(self, shape: tuple[int, ...], affine_ras: Affine) -> np.ndarray:
        return self._radius(shape, affine_ras, self.lesion_ras, self.lesion_radii) <= 1

    def brain(self, shape: tuple[int, ...], affine_ras: Affine) -> np.ndarray:
        return self._radius(shape, affine_ras, self.centre_ras, (68, 84, 66)) <= 1

    def scan(self, shape: tuple[int, ...], affine_ras: Affine, air: float = 0.0) -> Volume:
        radius = self._radius(shape, affine_ras, self.centre_ras, (68, 84, 66))
        image = np.where(radius <= 1, 300 + 40 * np.sin(radius * 12), air)
        image = np.where(radius < 0.25, 60, image)
        image = np.where(self.lesion(shape, affine_ras), 480, image)
        return Volume(np.round(image).astype(np.int16), affine_ras)

    @staticmethod
    def _radius(shape: tuple[int, ...], affine_ras: Affine, centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
        index = np.indices(shape).reshape(3, -1)
        points = affine_ras[:3, :3] @ index + affine_ras[:3, 3:]
        parts = (points - np.asarray(centre)[:, None]) / np.asarray(radii)[:, None]
        return np.sqrt((parts**2).sum(axis=0)).reshape(shape)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def grid_around(head: FormulaHead, axes: np.ndarray, spacing: np.ndarray, shape: tuple[int, ...]) -> Affine:
    """An affine with these unit axes (columns) and spacings whose middle is the middle of the head."""
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = np.asarray(head.centre_ras) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


@pytest.fixture
def head() -> FormulaHead:
    return FormulaHead()


@pytest.fixture
def make_release(tmp_path: Path) -> Callable[..., Release]:
    def make(**arguments: object) -> Release:
        return write_release(tmp_path / "releases" / str(arguments.get("version", "0.0.1")), **arguments)  # type: ignore[arg-type]

    return make


@pytest.fixture
def card(make_release: Callable[..., Release]) -> Card:
    return make_release().card
