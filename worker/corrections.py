"""What a radiologist sends back → training data: source series and the SEG objects about them become NIfTI files and a manifest.csv.

Neither names nor identifiers of a patient go along: patients are called by a hash that is slow to guess, visits are numbered.
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from model.volume import Volume
from service.errors import Rejected
from worker.convert import read_series
from worker.encode.wording import PRODUCT, TUMOUR_LIKE_LABEL
from worker.frames import MALFORMED, value_of
from worker.segments import CLASSES, Mask, Segment, describe, place_segments, read_segments

COLUMNS = ("scan", "patient", "session", "site", "flair", "lesion", "tumour", "ignore", "brain", "provenance")
NOT_CORRECTED = f"as {PRODUCT} made it, not corrected"


@dataclass(frozen=True)
class _Found:
    """A DICOM folder: the files of every image series, and the segmentation objects, headers only."""

    series: Mapping[str, Sequence[tuple[Path, Dataset]]]
    segmentations: Sequence[tuple[Path, Dataset]]


def read_corrections(folder: Path, out: Path) -> Path:
    """Turn every series that a SEG in the folder is about into a FLAIR and its masks, and list them.

    Of several SEGs about one series somebody else's goes before our own, then the newer one. A segment is a lesion, a tumour, the brain or
    to be ignored by its code or label; others are left out. A tumour that only we drew is unconfirmed: nothing is learned there.

    Parameters
    ----------
    folder : searched with everything below it; series that no SEG is about are left alone
    out : made if missing; `NAME_flair.nii.gz`, `NAME_lesion.nii.gz` … and the manifest are written there

    Returns
    -------
    Path
        The manifest, which `model.training.layouts` reads.

    Raises
    ------
    Rejected
        No SEG, a SEG whose series is not there, on another grid, or with no segment that means anything here. Never retried.
    """
    found = _scan(folder)
    chosen = _choose(found)
    named = _name(found, chosen)
    out.mkdir(parents=True, exist_ok=True)
    rows = [_write_case(out, found.series[uid], chosen[uid], patient, session) for uid, (patient, session) in named.items()]
    manifest = out / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return manifest


def _scan(folder: Path) -> _Found:
    series: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    segmentations = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, *MALFORMED):
            continue
        if str(value_of(header, "SOPClassUID")) in CLASSES:
            segmentations.append((path, header))
        elif value_of(header, "Rows") is not None:
            series[str(value_of(header, "SeriesInstanceUID"))].append((path, header))
    if not segmentations:
        raise Rejected(f"{folder}: no DICOM segmentation (SEG) there; put the corrected SEG beside the series it was drawn on")
    return _Found(series, segmentations)


def _choose(found: _Found) -> dict[str, Path]:
    """The SEG that counts for each series."""
    ranked: dict[str, list[tuple[tuple[bool, str, str, str], Path]]] = defaultdict(list)
    missing = []
    for path, header in found.segmentations:
        uid = next((uid for uid in _referenced(header, found) if uid in found.series), None)
        if uid is None:
            missing.append(path.name)
            continue
        moment = str(value_of(header, "ContentDate") or ""), str(value_of(header, "ContentTime") or "")
        ranked[uid].append(((not _is_own(header), *moment, str(value_of(header, "SOPInstanceUID"))), path))
    if missing:
        raise Rejected(f"the series that {', '.join(missing)} was drawn on is not in the folder: put it there, or take the SEG away")
    return {uid: max(entries)[1] for uid, entries in ranked.items()}


def _referenced(header: Dataset, found: _Found) -> Iterator[str]:
    """The series an object says it is about: by name, else by the instances its frames come from."""
    for item in value_of(header, "ReferencedSeriesSequence") or ():
        yield str(value_of(item, "SeriesInstanceUID"))
    owner = {str(value_of(one, "SOPInstanceUID")): uid for uid, files in found.series.items() for _, one in files}
    for group in value_of(header, "PerFrameFunctionalGroupsSequence") or ():
        for derived in value_of(group, "DerivationImageSequence") or ():
            for source in value_of(derived, "SourceImageSequence") or ():
                yield owner.get(str(value_of(source, "ReferencedSOPInstanceUID")), "")


def _is_own(header: Dataset) -> bool:
    """Whether nobody but us had a hand in it: what we made from a reader's mask says so in its segments."""
    algorithms = {segment.algorithm for segment in read_segments(header) if segment.meaning in {"lesion", "tumour"}}
    return str(value_of(header, "Manufacturer")) == PRODUCT and "AUTOMATIC" in algorithms


def _name(found: _Found, chosen: Mapping[str, Path]) -> dict[str, tuple[str, str]]:
    """Patient and visit of every series, visits numbered in the order they were made."""
    by_patient: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
    for uid in chosen:
        header = found.series[uid][0][1]
        when = (
            *(str(value_of(header, word) or "") for word in ("StudyDate", "StudyTime")),
            f"{value_of(header, 'SeriesNumber') or 0:>12}",
            uid,
        )
        by_patient[_patient_key(header)].append((when, uid))
    ordered = (
        (patient, number, uid) for patient, visits in sorted(by_patient.items()) for number, (_, uid) in enumerate(sorted(visits), 1)
    )
    return {uid: (patient, str(number)) for patient, number, uid in ordered}


def _patient_key(header: Dataset) -> str:
    """The same for one person always, and slow to find by trying identifiers; without an identifier every study is a person of its own."""
    identity = [str(value_of(header, word) or "") for word in ("PatientID", "IssuerOfPatientID")]
    if not identity[0]:
        identity = ["study", str(value_of(header, "StudyInstanceUID"))]
    digest = hashlib.scrypt("\\".join(identity).encode(), salt=b"leukoscope corrections", n=2**14, r=8, p=1, dklen=6)
    return f"patient-{digest.hex()}"


def _write_case(out: Path, files: Sequence[tuple[Path, Dataset]], path: Path, patient: str, session: str) -> dict[str, str]:
    volume = read_series([file for file, _ in files]).volume
    dataset = pydicom.dcmread(path)
    segments = read_segments(dataset)
    if not any(segment.meaning in {"lesion", "tumour"} for segment in segments):
        raise Rejected(
            f"{path.name}: no segment is called a lesion or a tumour (there are: {describe(segments)}); rename it and send it again"
        )
    placed = place_segments(dataset, volume, path.name)
    masks: dict[str, Mask] = {}
    for segment in segments:
        if role := _role(segment):
            masks[role] = masks.get(role, np.zeros(volume.shape, bool)) | placed[segment.number]
    scan = f"{patient}-{session}"
    row = {
        "scan": scan,
        "patient": patient,
        "session": session,
        "site": str(value_of(files[0][1], "InstitutionName") or ""),
        "flair": _save(volume, out / f"{scan}_flair.nii.gz"),
        "provenance": _provenance(dataset, segments),
    }
    return row | {role: _save(volume.with_data(mask.astype(np.uint8)), out / f"{scan}_{role}.nii.gz") for role, mask in masks.items()}


def _role(segment: Segment) -> str | None:
    ours = segment.algorithm == "AUTOMATIC" or (segment.algorithm != "MANUAL" and segment.label.startswith(TUMOUR_LIKE_LABEL))
    unconfirmed = segment.meaning == "tumour" and ours
    return "ignore" if unconfirmed else segment.meaning


def _provenance(dataset: Dataset, segments: Sequence[Segment]) -> str:
    made_by = " ".join(str(value_of(dataset, word) or "") for word in ("Manufacturer", "ManufacturerModelName")).strip()
    how = "/".join(sorted({segment.algorithm for segment in segments if segment.meaning == "lesion"} - {""}))
    when = str(value_of(dataset, "ContentDate") or "")
    reader = str(value_of(dataset, "ContentCreatorName") or "").replace("^", " ").strip()
    by = f"by {reader}" if reader and not _is_own(dataset) else ""
    parts = [f"SEG {value_of(dataset, 'SOPInstanceUID')}", NOT_CORRECTED if _is_own(dataset) else made_by, by, how, when]
    return "; ".join(part for part in parts if part)


def _save(volume: Volume, path: Path) -> str:
    image = nibabel.Nifti1Image(np.asarray(volume.data), volume.affine_ras)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path.name
