"""Folders with a dataset.json: nnU-Net's raw data, and the Medical Segmentation Decathlon's Task01_BrainTumour.

References
----------
Isensee 2021, doi:10.1038/s41592-020-01008-z; Antonelli 2022, doi:10.1038/s41467-022-30695-9.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.training.layouts.case import Case, UnusableCase
from model.training.layouts.names import stem

_FLAIR = re.compile(r"flair|t2f", re.IGNORECASE)
# tried in this order: a "tumour lesion" is a tumour
_MEANINGS = (
    ("other", re.compile(r"background|cavity|\brc\b", re.IGNORECASE)),
    ("ignore", re.compile(r"ignore", re.IGNORECASE)),
    ("tumour", re.compile(r"tumou?r|o?edema|necro|enhanc|glioma|core|snfh|netc|\bet\b|metasta|meningioma", re.IGNORECASE)),
    ("lesion", re.compile(r"lesion|wmh|hyper.?intens|leuko|plaque", re.IGNORECASE)),
)


@dataclass(frozen=True)
class Labels:
    """Which labels of a file mean what, by their names; names nobody knows are background and named in a note."""

    lesion: tuple[int, ...]
    tumour: tuple[int, ...]
    ignore: tuple[int, ...]
    other: tuple[int, ...]
    notes: tuple[str, ...]


def read_description(root: Path) -> dict[str, Any] | None:
    """The folder's dataset.json, None where there is none.

    Raises
    ------
    UnusableCase
        It is not JSON, or not an object.
    """
    path = root / "dataset.json"
    if not path.is_file():
        return None
    try:
        described = json.loads(path.read_text())
    except ValueError as error:
        raise UnusableCase(f"{path}: not JSON ({error})") from None
    if not isinstance(described, dict):
        raise UnusableCase(f"{path}: not an object")
    return described


def find_flair(described: Mapping[str, Any], path: Path) -> int:
    """The number of the FLAIR channel, by its name.

    Raises
    ------
    UnusableCase
        No channel, or several, are called FLAIR.
    """
    channels = described.get("channel_names") or described.get("modality") or {}
    found = [int(number) for number, name in channels.items() if _FLAIR.search(str(name))]
    if len(found) != 1:
        names = ", ".join(f"{number}: {name}" for number, name in channels.items()) or "none named"
        raise UnusableCase(f"{path}: which channel is the FLAIR? ({names})")
    return found[0]


def read_labels(described: Mapping[str, Any], path: Path) -> Labels:
    """What the labels mean, from their names; both ways round (nnU-Net: name → value, decathlon: value → name) and regions.

    Raises
    ------
    UnusableCase
        No label is a lesion or a tumour.
    """
    meant: dict[str, set[int]] = {"lesion": set(), "tumour": set(), "ignore": set(), "other": set()}
    notes = []
    for name, values in _named(described.get("labels") or {}):
        meaning = next((meaning for meaning, pattern in _MEANINGS if pattern.search(name)), None)
        if meaning is None:
            notes.append(f"label {name!r} ({', '.join(map(str, values))}) is read as background")
        meant[meaning or "other"].update(values)
    if not meant["lesion"] and not meant["tumour"]:
        raise UnusableCase(
            f"{path}: none of its labels is called a lesion or a tumour: {', '.join(map(str, described.get('labels') or {}))}"
        )
    meant["other"] -= {0} | meant["lesion"] | meant["tumour"] | meant["ignore"]
    sets = {meaning: tuple(sorted(values - {0})) for meaning, values in meant.items()}
    return Labels(sets["lesion"], sets["tumour"], sets["ignore"], sets["other"], tuple(notes))


def _named(labels: Mapping[str, Any]) -> Iterator[tuple[str, list[int]]]:
    for key, value in labels.items():
        if isinstance(value, str):
            yield value, [int(key)]
        else:
            yield key, [int(one) for one in value] if isinstance(value, list) else [int(value)]


def nnunet(root: Path) -> Iterator[Case]:
    """`dataset.json`, `imagesTr/CASE_0000.nii.gz` by channel, `labelsTr/CASE.nii.gz`. It names no patients: each case is taken for one."""
    described = read_description(root)
    if described is None or not (root / "labelsTr").is_dir() or "channel_names" not in described:
        return
    channel = find_flair(described, root / "dataset.json")
    labels = read_labels(described, root / "dataset.json")
    ending = str(described.get("file_ending", ".nii.gz"))
    for truth in sorted((root / "labelsTr").glob(f"*{ending}")):
        name = truth.name.removesuffix(ending)
        flair = root / "imagesTr" / f"{name}_{channel:04d}{ending}"
        yield _case(name, f"{root.name}/{name}", flair, None, truth, labels)


def msd(root: Path) -> Iterator[Case]:
    """Task01_BrainTumour: `dataset.json` whose `training` lists four-channel images and labels; brain-extracted."""
    described = read_description(root)
    if described is None or "modality" not in described or not isinstance(described.get("training"), list):
        return
    channel = find_flair(described, root / "dataset.json")
    labels = read_labels(described, root / "dataset.json")
    for entry in described["training"]:
        flair, truth = root / entry["image"], root / entry["label"]
        yield _case(stem(flair), f"msd/{stem(flair)}", flair, channel, truth, labels, extracted=True)


def _case(name: str, patient: str, flair: Path, channel: int | None, truth: Path, labels: Labels, *, extracted: bool = False) -> Case:
    return Case(
        name,
        patient,
        "1",
        flair,
        channel=channel,
        lesion=truth if labels.lesion else None,
        tumour=truth if labels.tumour else None,
        ignore=truth if labels.ignore else None,
        lesion_values=labels.lesion,
        tumour_values=labels.tumour,
        ignore_values=labels.ignore,
        other_values=labels.other,
        extracted=extracted,
        notes=labels.notes,
    )
