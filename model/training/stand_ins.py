"""Phantoms in the place of scans: written as files with a manifest, and from there on treated as anybody's data."""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

from model.phantom import Phantom, make_phantom
from model.training.arms import ExperimentConfig, Phantoms
from model.training.configuration import Source
from model.training.layouts.manifest import NAME
from model.training.whole import whole_file
from model.volume import Affine

FIELD_MM = (190.0, 240.0, 240.0)


def with_phantoms(config: ExperimentConfig, folder: Path, say: Callable[[str], None]) -> ExperimentConfig:
    """The configuration with its phantoms as sources, whose files are made where they are not there yet."""
    sources = [_write(phantoms, folder, say) for phantoms in config.phantoms]
    return config.model_copy(update={"data": config.data.model_copy(update={"sources": (*config.data.sources, *sources)})})


def _write(phantoms: Phantoms, folder: Path, say: Callable[[str], None]) -> Source:
    told = hashlib.sha256(phantoms.model_dump_json(exclude={"kind", "seeds"}).encode()).hexdigest()[:6]
    rows = []
    for seed in phantoms.seeds:
        name = f"phantom-{seed}-{told}"
        label = "tumour" if phantoms.tumours else "lesion"
        files = {part: f"{name}_{part}.nii.gz" for part in ("flair", label, "brain")}
        if not all((folder / file).exists() for file in files.values()):
            say(f"make {name}")
            _save(_make(phantoms, seed), folder, files)
        rows.append({"patient": name, "scan": name, "healthy_tumour": "no" if phantoms.tumours else "yes", **files})
    manifest = folder / f"{phantoms.kind}-{hashlib.sha256(phantoms.model_dump_json().encode()).hexdigest()[:6]}" / NAME
    manifest.parent.mkdir(parents=True, exist_ok=True)
    with manifest.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows([{**row, **{part: f"../{row[part]}" for part in files}} for row in rows])
    return Source(layout="manifest", folder=str(manifest.parent.resolve()), kind=phantoms.kind)


def _make(phantoms: Phantoms, seed: int) -> Phantom:
    step = phantoms.spacing_mm
    i, j, k = (int(size / step) for size in FIELD_MM)
    return make_phantom(seed, (i, j, k), (step, step, step), lesions_ml=phantoms.lesions_ml, skull=phantoms.skull)


def _save(phantom: Phantom, folder: Path, files: dict[str, str]) -> None:
    parts = (np.asarray(phantom.flair.data), np.asarray(phantom.lesions.data, np.uint8), np.asarray(phantom.brain.data, np.uint8))
    for file, data in zip(files.values(), parts, strict=True):
        save_nifti(folder / file, data, phantom.flair.affine_ras)


def save_nifti(path: Path, data: npt.NDArray[np.generic], affine_ras: Affine) -> None:
    """Write a `.nii.gz` file whole: a kill leaves none or all of it."""
    with whole_file(path) as stream, gzip.GzipFile("", "wb", 1, stream, mtime=0) as packed:
        nibabel.Nifti1Image(data, affine_ras).to_stream(packed)
