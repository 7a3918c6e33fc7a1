"""A release: weights and the card that says how to feed them, how to read them, and what they were measured to do."""

from __future__ import annotations

import hashlib
import json
import re
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
    members: int = Field(default=1, description="networks whose logits the weights file averages")


class InputPreparation(_Frozen):
    """How a volume becomes the network's input (`model.preprocess`); the same in training and serving."""

    spacing_mm: float = 1.0
    clip_percentiles: tuple[float, float] = (0.5, 99.5)
    shapes: tuple[tuple[int, int, int], ...] = Field(
        default=((160, 192, 160), (176, 208, 176), (192, 224, 192), (192, 256, 224)),
        description="allowed input shapes (i, j, k), smallest first",
    )
    margin_mm: float = Field(default=8.0, description="kept free above the vertex, where there is room")


class LesionDefinition(_Frozen):
    """One definition of a lesion for every output."""

    threshold: float
    peak_threshold: float = Field(default=0.0, description="a lesion counts only if a voxel of it is more probable than this")
    edge_fraction: float = Field(
        default=0.0, description="a lesion ends at this share of its brightness above what surrounds it (`model.edges`)"
    )
    tumour_threshold: float
    brain_threshold: float
    temperature: float = Field(default=1.0, description="the lesion head's logit is divided by this,")
    bias: float = Field(default=0.0, description="then this is added (Platt scaling); other heads are left as they are")
    smallest_mm3: float
    connectivity: Literal[26] = 26
    smallest_tumour_mm3: float = Field(
        default=100.0, description="smaller components of the tumour class are specks: they neither count nor turn a lesion tumour-like"
    )
    tumour_touch_fraction: float = Field(description="a lesion with at least this share of voxels in or beside tumour is tumour-like")


class Calibration(_Frozen):
    """Whether the lesion probability, summed over the brain, may be read as a volume: measured on patients the network never saw.

    `acceptable` only if for every left-out patient the summed probability is within 25 % or 2 ml of the true volume, whichever
    allows more. Only then a report shows that volume to people; `report.json` always has it.
    """

    acceptable: bool
    expected_calibration_error: float = Field(description="over brain voxels, ten bins of equal width, patients weighing alike")
    expected_calibration_error_where_possible: float = Field(description="the same over brain voxels of probability 0.05 or more")
    worst_volume_error_ml: float = Field(description="summed probability less truth, of the patient farthest off by the rule")
    patients: int


class Contrast(_Frozen):
    """What the training volumes looked like to the network (`model.familiar`); a scan farther off than `limit` is flagged."""

    features: tuple[str, ...]
    mean: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...] = Field(description="inverse covariance, shrunk towards its diagonal")
    limit: float = Field(description="a fifth more than the largest distance of a training patient from all the others")
    volumes: int


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
    calibration: Calibration | None = Field(default=None, description="none: never measured, and no volume by probability is shown")
    contrast: Contrast | None = Field(default=None, description="none: no scan is flagged for its contrast")
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


def available(folder: Path = RELEASES) -> list[Path]:
    """Folders that hold a card, oldest version first; nothing is verified yet."""
    found = [card.parent for card in folder.glob("*/card.json")]
    return sorted(found, key=lambda release: (_version(release), release.name))


def newest(folder: Path = RELEASES) -> Release:
    """Load and verify the release with the highest version.

    Raises
    ------
    ReleaseMismatch
        There is none, or it is broken: an older one is never taken silently.
    """
    releases = available(folder)
    if not releases:
        raise ReleaseMismatch(f"no release in {folder}")
    return load(releases[-1])


def find(name: str | None = None, folder: Path = RELEASES) -> Release:
    """Load and verify a release by path, folder name, version or "name version"; the newest without a name.

    Raises
    ------
    ReleaseMismatch
        There is none of that name, or it is broken.
    """
    if not name:
        return newest(folder)
    if (Path(name) / "card.json").is_file():
        return load(Path(name))
    for release in reversed(available(folder)):
        if name in _names(release):
            return load(release)
    known = ", ".join(release.name for release in available(folder)) or "none"
    raise ReleaseMismatch(f"no release {name!r}; there are: {known}")


def _names(release: Path) -> set[str]:
    names = {release.name}
    try:
        card = json.loads((release / "card.json").read_text())
        names |= {card["version"], f"{card['name']} {card['version']}", f"{card['name']}-{card['version']}"}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # `load` says what is wrong with it when it is asked for by its folder
    return names


def _version(release: Path) -> tuple[tuple[int, ...], bool]:
    """Sorts 1.10.0 after 1.9.2 and a release after its own candidates (1.0.0 after 1.0.0-rc1)."""
    try:
        text = str(json.loads((release / "card.json").read_text())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        text = ""
    core, _, candidate = text.partition("-")
    return tuple(int(part) for part in re.findall(r"\d+", core)), not candidate
