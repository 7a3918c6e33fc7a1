"""BIDS: raw FLAIR under sub-*/[ses-*/]anat, lesion masks in derivatives.

References
----------
Gorgolewski 2016, doi:10.1038/sdata.2016.44; BIDS 1.10, "Imaging data types: derivatives, segmentations".
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from model.training.layouts.case import Case
from model.training.layouts.names import nifti, stem

_ENTITY = re.compile(r"(?P<key>[a-zA-Z]+)-(?P<value>[a-zA-Z0-9]+)")
_MASKS = {
    "lesion": re.compile(r"_(label|desc)-(lesions?|wmh|WMH)_(mask|dseg)$"),
    "tumour": re.compile(r"_(label|desc)-(tumou?r|glioma|wholetumou?r)_(mask|dseg)$", re.IGNORECASE),
    "ignore": re.compile(r"_(label|desc)-ignore_(mask|dseg)$"),
    "brain": re.compile(r"_(label|desc)-brain_mask$"),
}
_SAME = ("acq", "ce", "rec", "run")
_OWN_SPACE = {"", "orig", "individual", "flair", "native"}


def bids(root: Path) -> Iterator[Case]:
    """`*_FLAIR` and `*_label-lesion_mask` or `*_desc-lesion_mask` of one session; another pipeline's mask is the second rater's."""
    subjects = sorted({path.name for pattern in ("sub-*", "derivatives/*/sub-*") for path in root.glob(pattern) if path.is_dir()})
    sites = _read_sites(root)
    for subject in subjects:
        files = [path for pattern in (f"{subject}/**/*", f"derivatives/*/{subject}/**/*") for path in nifti(root, pattern)]
        scans = [path for path in files if stem(path).endswith("_FLAIR")]
        for flair in _prefer_raw(scans):
            masks = {kind: _masks_of(flair, [p for p in files if pattern.search(stem(p))]) for kind, pattern in _MASKS.items()}
            if masks["lesion"] or masks["tumour"]:
                yield _case(root, subject, flair, masks, sites)


def _case(root: Path, subject: str, flair: Path, masks: dict[str, list[Path]], sites: dict[str, str]) -> Case:
    own = entities(flair)
    session = own.get("ses", "1") + "".join(f"-{key}-{own[key]}" for key in _SAME if key in own)
    lesion = masks["lesion"]
    notes = (f"{len(lesion)} lesion masks; the first two are used",) if len(lesion) > 2 else ()
    return Case(
        stem(flair).removesuffix("_FLAIR"),
        f"{root.name}/{subject}",
        session,
        flair,
        site=sites.get(subject, ""),
        lesion=lesion[0] if lesion else None,
        second=lesion[1] if len(lesion) > 1 else None,
        tumour=_first(masks["tumour"]),
        ignore=_first(masks["ignore"]),
        brain=_first(masks["brain"]),
        notes=notes,
    )


def entities(path: Path) -> dict[str, str]:
    """The key-value pairs of a BIDS name."""
    return {match["key"]: match["value"] for part in stem(path).split("_") if (match := _ENTITY.fullmatch(part))}


def _first(paths: list[Path]) -> Path | None:
    return paths[0] if paths else None


def _space(path: Path) -> str:
    space = entities(path).get("space", "")
    return "" if space.lower() in _OWN_SPACE else space


def _prefer_raw(scans: list[Path]) -> list[Path]:
    """One file per scan and space: the raw one before a derivative's copy."""
    kept: dict[tuple[str, ...], Path] = {}
    for path in sorted(scans, key=lambda path: ("derivatives" in path.parts, path.as_posix())):
        own = entities(path)
        kept.setdefault((own.get("ses", ""), _space(path), *(own.get(key, "") for key in _SAME)), path)
    return list(kept.values())


def _masks_of(flair: Path, masks: list[Path]) -> list[Path]:
    """Masks of the same session and space that name no other acquisition, run or contrast than the scan."""
    own = entities(flair)

    def fits(mask: Path) -> bool:
        other = entities(mask)
        same_place = other.get("ses") == own.get("ses") and _space(mask) == _space(flair)
        return same_place and all(other[key] == own.get(key) for key in _SAME if key in other)

    return sorted(mask for mask in masks if fits(mask))


def _read_sites(root: Path) -> dict[str, str]:
    path = root / "participants.tsv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        return {row["participant_id"]: row.get("site") or "" for row in csv.DictReader(file, delimiter="\t") if row.get("participant_id")}
