"""A head of pure formulas on any grid, and a tiny release whose network is one convolution."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from model.release import Architecture, Card, EngineLimits, InputPreparation, LesionDefinition, Release, load
from model.volume import Affine, Volume

SMALL = InputPreparation(spacing_mm=2.0, shapes=((80, 96, 80), (96, 112, 96)))


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


def write_release(folder: Path, *, version: str = "0.0.1", gain: float = 4.0, limits: tuple[float, float] = (0.1, 0.01)) -> Release:
    """Write a release whose lesion logit is bright tissue, tumour logit very bright tissue, brain logit anything but background."""
    folder.mkdir(parents=True)
    kernel = np.zeros((3, 1, 3, 3, 3), np.float32)
    kernel[0] = kernel[1] = kernel[2] = gain / 27
    bias = np.asarray([-1.5 * gain, -3.0 * gain, 0.5 * gain], np.float32)
    network = helper.make_graph(
        [helper.make_node("Conv", ["x", "kernel", "bias"], ["logits"], pads=[1] * 6)],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, "i", "j", "k"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3, "i", "j", "k"])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(network, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    weights = model.SerializeToString()
    (folder / "network.onnx").write_bytes(weights)
    card = Card(
        name="tiny",
        version=version,
        summary="One convolution, for tests.",
        architecture=Architecture(widths=(1,)),
        input=SMALL,
        lesion=LesionDefinition(
            threshold=0.5, tumour_threshold=0.5, brain_threshold=0.5, smallest_mm3=30, tumour_touch_fraction=0.1, temperature=1.0
        ),
        engine=EngineLimits(
            largest_probability_difference=limits[0], mean_probability_difference=limits[1], bytes_per_voxel=100, tile_overlap_voxels=16
        ),
        weights="network.onnx",
        sha256=hashlib.sha256(weights).hexdigest(),
        training={},
        figures={},
        intended_use="Tests.",
        limits=(),
    )
    (folder / "card.json").write_text(card.model_dump_json(indent=1))
    return load(folder)


@pytest.fixture
def make_release(tmp_path: Path) -> Callable[..., Release]:
    def make(**arguments: object) -> Release:
        return write_release(tmp_path / "releases" / str(arguments.get("version", "0.0.1")), **arguments)  # type: ignore[arg-type]

    return make


@pytest.fixture
def card(make_release: Callable[..., Release]) -> Card:
    return make_release().card
