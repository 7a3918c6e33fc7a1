"""Small finished cases for the encoders: a real DICOM series read by the real reader, a mask of our choosing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from model.postprocess import Masks
from model.release import Architecture, Card, EngineLimits, InputPreparation, LesionDefinition, Release
from model.volume import Volume
from service.sections import RTStruct, Segmentation
from worker import measure
from worker.convert import Series, read_series
from worker.encode.context import Context
from worker.phantom import write_series
from worker.pipeline import Found, make_context

CARD = Card(
    name="Leukoscope WMH test",
    version="0.0.1",
    summary="no weights",
    architecture=Architecture(widths=(8, 16)),
    input=InputPreparation(shapes=((64, 64, 64),)),
    lesion=LesionDefinition(threshold=0.5, tumour_threshold=0.5, brain_threshold=0.5, smallest_mm3=3.0, tumour_touch_fraction=0.3),
    engine=EngineLimits(largest_probability_difference=0.1, mean_probability_difference=0.01, bytes_per_voxel=300.0),
    weights="weights.onnx",
    sha256="ab" * 32,
    training={"irradiated_patients": 0},
    figures={},
    intended_use="tests",
    limits=("not for use",),
)
RELEASE = Release(CARD, Path("nowhere"))
ENGINE: Any = SimpleNamespace(name="openvino-cpu", precision="f32")
VENDORS = ("siemens/anatomical/001", "generic/compressed_jpegls/001", "philips_enhanced/anatomical/001", "hyperfine/anatomical/001")


def affine(orientation: Any, spacing: tuple[float, float, float], origin: tuple[float, float, float] = (-20.0, -30.0, 15.0)) -> Any:
    """Affine (RAS) whose columns are the three orthogonal `orientation` vectors times the spacing."""
    result = np.eye(4)
    result[:3, :3] = np.asarray(orientation, dtype=float).T * spacing
    result[:3, 3] = origin
    return result


def turned(axes: Sequence[int], signs: Sequence[float], angles: Sequence[float]) -> Any:
    """The directions of a grid: the patient's axes turned about each (degrees), permuted, and mirrored."""
    rotation = np.eye(3)
    for (first, second), angle in zip(((0, 1), (0, 2), (1, 2)), np.radians(angles), strict=True):
        turn = np.eye(3)
        turn[[first, second], [first, second]] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        rotation = turn @ rotation
    return rotation[list(axes)] * np.array(signs)[:, None]


def textured(shape: tuple[int, int, int], seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(20, 1000, shape).astype(np.float32)


def series_of(volume: Volume, folder: Path, **options: Any) -> Series:
    return read_series(write_series(volume, folder, **options))


def vendor_series(shared_data: Path, folder: str) -> Series:
    """One of the series in ../shared/data, as its vendor wrote it."""
    return read_series(sorted(path for path in (shared_data / "dicom/vendors" / folder).iterdir() if path.is_file()))


def masks_of(labels: Any, probability: Any = None, brain: Any = None) -> Any:
    lesion = np.where(labels == 1, 0.9, 0.01).astype(np.float32) if probability is None else probability
    inside = np.ones(labels.shape, bool) if brain is None else brain
    return Masks(labels=labels, brain=inside, lesion_probability=lesion)


def context_of(
    source: Series | Volume,
    labels: Any,
    *,
    revision: int = 1,
    series_shift: int = 0,
    brain: Any = None,
    quality: tuple[str, ...] = (),
    probability: Any = None,
    segmentation: Segmentation = Segmentation(),
    rtstruct: RTStruct = RTStruct(),
) -> Context:
    series = source if isinstance(source, Series) else None
    volume = series.volume if series else source
    masks = masks_of(labels, probability, brain)
    found = Found(masks, measure.measure(masks, volume, CARD), ())
    flags = (*(series.quality if series else ()), *quality)
    return make_context(series, volume, found, RELEASE, ENGINE, flags, revision, series_shift, segmentation=segmentation, rtstruct=rtstruct)
