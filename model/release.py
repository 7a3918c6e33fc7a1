"""A release: weights and the card that says how to feed them, how to read them, and what they were measured to do."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

RELEASES = Path(__file__).parent / "releases"


class ReleaseMismatch(Exception):
    """Card and weights do not belong together, or the card cannot be read. Nothing is served with it."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Architecture(_Frozen):
    """What `model.training.network.AttentionVNet` was built with."""

    name: Literal["AttentionVNet"] = "AttentionVNet"
    widths: tuple[int, ...]
    kernel_size: int = 3
    gates: bool = True
    norm: str = "instance"
    heads: tuple[str, ...] = ("lesion", "tumour", "brain")


class InputPreparation(_Frozen):
    """How a volume becomes the network's input (`model.preprocess`); the same in training and serving."""

    spacing_mm: float = 1.0
    clip_percentiles: tuple[float, float] = (0.5, 99.5)
    shapes: tuple[tuple[int, int, int], ...] = Field(
        default=((160, 192, 160), (176, 208, 176), (192, 224, 192), (192, 256, 224)),
        description="allowed input shapes (i, j, k), smallest first",
    )
    margin_mm: float = 8.0


class LesionDefinition(_Frozen):
    """One definition of a lesion for every output."""

    threshold: float
    tumour_threshold: float
    brain_threshold: float
    temperature: float = 1.0
    smallest_mm3: float
    connectivity: Literal[26] = 26
    tumour_touch_fraction: float = Field(description="a lesion with at least this share of its voxels taken for tumour is tumour-like")


class EngineLimits(_Frozen):
    """What an engine may differ from the float32 reference by, and what it needs."""

    largest_probability_difference: float
    mean_probability_difference: float
    bytes_per_voxel: float = Field(description="peak engine memory per input voxel, float32")
    tile_overlap_voxels: int = 32


class Card(_Frozen):
    """The release card, `card.json` beside the weights."""

    name: str
    version: str
    summary: str
    architecture: Architecture
    input: InputPreparation
    lesion: LesionDefinition
    engine: EngineLimits
    weights: str
    sha256: str
    training: dict[str, Any] = Field(description="data with licences, citations and counts, irradiated patients, steps, seeds, versions")
    figures: dict[str, Any] = Field(description="every measured figure with its n and the command that measured it")
    intended_use: str
    limits: tuple[str, ...]


@dataclass(frozen=True)
class Release:
    """A verified release on disk."""

    card: Card
    folder: Path

    @property
    def weights(self) -> Path:
        """The ONNX file."""
        return self.folder / self.card.weights


def load(folder: Path) -> Release:
    """Read a release and verify that its weights are those the card names.

    Raises
    ------
    ReleaseMismatch
        The card is unreadable, or the weights' SHA-256 is not the card's. The service does not start with it.
    """
    try:
        card = Card.model_validate_json((folder / "card.json").read_text())
        digest = hashlib.sha256((folder / card.weights).read_bytes()).hexdigest()
    except (OSError, ValueError) as error:
        raise ReleaseMismatch(f"{folder}: {error}") from error
    if digest != card.sha256:
        raise ReleaseMismatch(f"{folder}: weights have SHA-256 {digest}, the card says {card.sha256}")
    return Release(card, folder)
