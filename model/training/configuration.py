"""What a training is told: pydantic models read from YAML; an unknown key stops it."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field

from model.release import InputPreparation
from model.training.augment import Painting
from model.training.loss import ALPHA
from model.training.network import NetworkConfig


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Frozen):
    """One folder of annotated scans."""

    layout: str
    folder: str
    kind: str = Field(description="tumour, target, raw or phantom: how the scans are mixed and painted")
    use: tuple[str, ...] | None = Field(default=None, description="patients to take; all if left out")
    held_out: tuple[str, ...] = Field(default=(), description="patients never trained on: the release is judged on them")
    heads: int = Field(default=0, description="copies inside a synthetic head")


class Data(_Frozen):
    """Scans, shapes to paint with, phantoms. Paths are relative to `root`, and `root` to the working directory."""

    root: Path
    sources: tuple[Source, ...]
    shapes: str | None = Field(default=None, description="folder of the Open MS data, for its lesion masks; none: by anatomy alone")
    shapes_left_out: tuple[str, ...] = ()
    phantom_seeds: tuple[int, ...] = ()
    cache: Path | None = None


class Schedule(_Frozen):
    """One training run."""

    steps: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    batch: int = Field(default=1, gt=0, description="crops a step; each has its own random numbers")
    warm_up: int = 50
    weight_decay: float = 1e-4
    clip: float = 1.0
    crop: tuple[int, int, int] = (96, 96, 96)
    centred: float = 0.5
    ema: float = 0.99
    encoder_rate: float = Field(default=1.0, description="the encoder's learning rate as a share of the decoder's")
    large_crop: tuple[int, int, int] | None = None
    large_every: int = Field(default=0, description="every so-manieth step uses `large_crop`: instance norm must know whole heads too")
    large_steps: int = Field(default=0, description="so many last steps use `large_crop`")
    statistics_steps: int = Field(
        default=0, description="so many first steps batch norm takes each crop's own statistics and averages them; then the averages"
    )
    head_steps: int = Field(default=0, description="so many first steps move the heads only")
    decoder_steps: int = Field(default=0, description="so many steps after them leave the encoder still: decoder, gates and heads learn")
    fresh_heads: tuple[str, ...] = Field(default=(), description="heads that start anew when training goes on from a checkpoint")
    mixture: dict[str, float] = Field(min_length=1, description="share of the crops for each kind; replay is a share of a source kind")
    painting: dict[str, Painting] = {}
    head_weights: tuple[float, float, float] = Field(default=(1.0, 0.6, 0.4), description="of lesion, tumour, brain")
    alpha: tuple[float, float, float] = Field(default=ALPHA, description="Tversky weight of false positives: lesion, tumour, brain")
    empty_weight: float = Field(
        default=0.0,
        ge=0.0,
        description="of the Tversky term in crops without a head's disease; more than 0 only where a head knows it already",
    )
    checkpoint_every: int = 50


class Config(_Frozen):
    """The whole of a training, as read from YAML."""

    seed: int = 1
    threads: int = 2
    network: NetworkConfig
    input: InputPreparation
    data: Data
    pretrain: Schedule
    finetune: Schedule
    folds: tuple[str, ...] = Field(description="patients left out one by one")


def read_config(path: Path) -> Config:
    """Read a configuration; raises pydantic's ValidationError on an unknown or wrong key."""
    return Config.model_validate(yaml.safe_load(path.read_text()))
