"""What an experiment is told: arms, folds and seeds; pydantic models read from YAML, where an unknown key stops it.

An arm is a network and the schedules it is trained by, one after the other. What a schedule mixes decides what an arm learns from:
the kind `target` is the cohort the arms are tested on, every other kind is a source. So an ablation is some lines of YAML.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.release import InputPreparation
from model.training.configuration import Data, Schedule
from model.training.network import HEADS, NetworkConfig

TARGET = "target"
CONFIGURATIONS = Path(__file__).parent / "configurations"


class UnusableExperiment(Exception):
    """The experiment cannot be run as it is configured; the message says what to change. Nothing has been trained."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Arm(_Frozen):
    """One way to train. Arms, folds and seeds that share a stage (same network, schedule, scans and seed) share its run."""

    stages: tuple[str, ...] = Field(min_length=1, description="names of schedules; each goes on from the one before")
    network: dict[str, Any] = Field(default={}, description="what differs from the experiment's network")
    segmentation: Literal["lesion", "tumour"] = Field(default="lesion", description="the head whose output counts as the segmentation")
    ablation: bool = Field(default=False, description="one thing is switched off: shown apart from the main arms")


class Draws(_Frozen):
    """Patients drawn at random, by the experiment's seed."""

    n_train: int = Field(default=9, gt=0, description="patients")
    n_test: int = Field(default=11, gt=0, description="patients")
    draws: int = Field(default=1, gt=0, description="so many times over")


class NamedFold(_Frozen):
    """Patients by name."""

    train: tuple[str, ...] = Field(min_length=1)
    test: tuple[str, ...] = Field(min_length=1)


class Phantoms(_Frozen):
    """Heads made by code in the place of scans, written as files beside the prepared volumes."""

    kind: str
    seeds: tuple[int, ...]
    spacing_mm: float = 1.0
    lesions_ml: tuple[float, ...] | None = Field(default=None, description="volume of each lesion; at random if left out")
    tumours: bool = Field(default=False, description="what is bright counts as tumour, as in BraTS, and nothing is known of lesions")
    skull: bool = True


class ExperimentConfig(_Frozen):
    """The whole of an experiment.

    Attributes
    ----------
    seed : of what is drawn before any training: folds, synthetic heads
    seeds : every arm and fold is trained once for each
    comparisons : (arm, reference), tested over paired patients
    classical, transfer : the arms of the founding abstract's two figures
    """

    name: str
    seed: int = 1
    seeds: tuple[int, ...] = Field(default=(1,), min_length=1)
    threads: int = Field(default=2, gt=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    network: NetworkConfig
    input: InputPreparation
    data: Data
    phantoms: tuple[Phantoms, ...] = ()
    schedules: dict[str, Schedule]
    arms: dict[str, Arm] = Field(min_length=1)
    folds: Literal["leave-one-patient-out"] | Draws | tuple[NamedFold, ...] = Draws()
    comparisons: tuple[tuple[str, str], ...] = ()
    classical: tuple[str, ...] = ()
    transfer: str = ""

    @property
    def ablations(self) -> tuple[str, ...]:
        """Arms shown apart."""
        return tuple(name for name, arm in self.arms.items() if arm.ablation)

    def arm_network(self, arm: str) -> NetworkConfig:
        """The network of an arm."""
        return NetworkConfig.model_validate({**self.network.model_dump(), **self.arms[arm].network})

    def kinds(self, arm: str) -> set[str]:
        """What an arm learns from, over all its stages."""
        return {kind for stage in self.arms[arm].stages for kind in self.schedules[stage].mixture}

    @model_validator(mode="after")
    def _names_are_known(self) -> ExperimentConfig:
        for name, arm in self.arms.items():
            if not re.fullmatch(r"[\w+.-][\w+. -]*", name):
                raise ValueError(f"arms: {name!r}: the name becomes a folder's: letters, digits, + - _ . and blanks")
            _demand_known(f"arms: {name}: stages", arm.stages, self.schedules)
            if self.arm_network(name).heads != HEADS:
                raise ValueError(f"arms: {name}: the served path needs the heads {', '.join(HEADS)}")
        named = [*(arm for pair in self.comparisons for arm in pair), *self.classical, *([self.transfer] if self.transfer else [])]
        _demand_known("comparisons, classical, transfer", named, self.arms)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one stands there twice")
        return self


def _demand_known(where: str, names: Any, known: Any) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"{where}: no such name: {', '.join(unknown)}; there are {', '.join(known)}")


def find_config(name: Path) -> Path:
    """The file itself, or the configuration of that name which is shipped.

    Raises
    ------
    UnusableExperiment
        There is neither.
    """
    for path in (name, CONFIGURATIONS / name.name):
        if path.is_file():
            return path
    shipped = ", ".join(sorted(path.name for path in CONFIGURATIONS.glob("*.yaml") if "arms:" in path.read_text()))
    raise UnusableExperiment(f"{name}: no such file; shipped: {shipped}")


def read_experiment(path: Path, root: Path | None = None, cache: Path | None = None) -> ExperimentConfig:
    """Read a configuration; `root` and `cache` take the place of what it says of `data`.

    Raises
    ------
    UnusableExperiment
        Not YAML, or an unknown or wrong key; the message names each.
    """
    try:
        told = yaml.safe_load(path.read_text())
        config = ExperimentConfig.model_validate(told)
    except yaml.YAMLError as error:
        raise UnusableExperiment(f"{path}: not YAML: {error}") from None
    except ValidationError as error:
        wrong = [f"  {'.'.join(map(str, item['loc'])) or 'configuration'}: {item['msg']}" for item in error.errors()]
        raise UnusableExperiment("\n".join((f"{path}:", *wrong))) from None
    changes = {name: value for name, value in (("root", root), ("cache", cache)) if value is not None}
    return config.model_copy(update={"data": config.data.model_copy(update=changes)})
