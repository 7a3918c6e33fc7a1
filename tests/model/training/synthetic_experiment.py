"""The folder an experiment leaves, made by formulas: thick slices, known lesions, arms of known quality. Scores are measured."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from model.training.arms import ExperimentConfig
from model.training.metrics import score

SHAPE, SPACING = (44, 54, 22), np.asarray([4.0, 3.8, 6.5])
AFFINE = np.diag([-4.0, -3.8, 6.5, 1.0])  # left, back, up
QUALITY = {"scratch": 0.1, "source-only": 0.2, "ms+target": 0.6, "source+target": 0.75, "transfer": 0.9, "no gates": 0.85}
ABLATIONS = ("no gates",)
COMPARISONS = (("transfer", "scratch"), ("transfer", "source-only"), ("transfer", "source+target"))
BINS = np.linspace(0, 1, 11)


def make_config(arms=tuple(QUALITY), seeds=(1, 2), **changes):
    return ExperimentConfig.model_validate(
        {
            "name": "Transfer from tumour to white-matter lesions, synthetic",
            "seeds": seeds,
            "network": {"widths": (4, 4, 8)},
            "input": {},
            "data": {"root": ".", "sources": (), "shapes": "none"},
            "schedules": {"one": {"steps": 1, "learning_rate": 0.001, "mixture": {"target": 1.0}}},
            "arms": {arm: {"stages": ("one",), "ablation": arm in ABLATIONS} for arm in arms},
            "comparisons": [pair for pair in COMPARISONS if set(pair) <= set(arms)],
            "classical": [arm for arm in ("scratch", "source-only") if arm in arms],
            "transfer": "transfer",
            **changes,
        }
    )


def write_experiment(folder: Path, patients: int, arms=tuple(QUALITY), seeds=(1, 2), empty=(), unfinished=(), files=True):
    """`empty` patients have no lesion; `unfinished` arms lack the last seed; the first patient has two visits and a second rater."""
    rows, bins, cases = [], [], {}
    for number in range(patients):
        patient = f"P{number + 1:02d}"
        for visit in (1, 2) if number == 0 else (1,):
            scan = f"{patient}-T{visit}"
            image, lesion = _head(10 * number + visit, 0.0 if patient in empty else 0.4 + 0.25 * number)
            cases[scan] = _case(folder, scan, patient, visit, image, lesion, files)
            for arm in arms:
                for seed in seeds[:-1] if arm in unfinished else seeds:
                    found, probability = _found(lesion, image > 0, QUALITY[arm], seed + 10 * number)
                    head = {"arm": arm, "seed": seed, "fold": patient, "patient": patient, "scan": scan}
                    counts = {"n_train_patients": patients - 1, "n_train_scans": patients - (number == 0)}
                    scores = asdict(score(lesion, found == 1, SPACING))
                    rows.append({**head, **counts, **scores, "threshold": 0.5, "smallest_mm3": 10, "temperature": 1, "seconds": 3.2})
                    bins += [{**head, **line} for line in _bins(probability[image > 0], lesion[image > 0])]
                    if files:
                        path = folder / "predictions" / arm / f"seed-{seed}" / f"{scan}.nii.gz"
                        path.parent.mkdir(parents=True, exist_ok=True)
                        nibabel.save(nibabel.Nifti1Image(found, AFFINE), path)
    _write_csv(folder / "results.csv", rows)
    _write_csv(folder / "reliability.csv", bins)
    (folder / "cases.json").write_text(json.dumps(cases))
    return rows


def _head(seed, load):
    random = np.random.default_rng(seed)
    i, j, k = (np.linspace(-1, 1, n) for n in SHAPE)
    x, y, z = i[:, None, None], j[None, :, None], k[None, None, :]
    radius = np.sqrt((x / 0.8) ** 2 + (y / 0.9) ** 2 + (z / 0.9) ** 2)
    ventricle = ((np.abs(x) - 0.16) / 0.11) ** 2 + ((y - 0.05) / 0.36) ** 2 + (z / 0.4) ** 2 < 1
    image = np.where(radius < 1, 260 + 40 * np.cos(radius * 9) + random.normal(0, 9, SHAPE), 0.0)
    image[ventricle] = 70
    lesion = np.zeros(SHAPE, bool)
    for side in (-1, 1):
        for end in (-0.38, 0.46):
            size = 0.11 * load**0.33 * random.uniform(0.8, 1.3) if load else 0
            if size:
                centre = side * random.uniform(0.22, 0.36), end + random.uniform(-0.05, 0.05), random.uniform(-0.1, 0.2)
                lesion |= (
                    ((x - centre[0]) / size) ** 2 + ((y - centre[1]) / (1.4 * size)) ** 2 + ((z - centre[2]) / (2.2 * size)) ** 2
                ) < 1
    lesion &= (radius < 0.93) & ~ventricle
    image[lesion] += 170
    return np.maximum(image, 0).astype(np.float32), lesion


def _found(lesion, head, quality, seed):
    random = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(random.normal(0, 1, SHAPE), 1.3)
    noise /= noise.std()
    soft = ndimage.gaussian_filter(lesion.astype(float), 0.9)
    probability = 1 / (1 + np.exp(-6 * quality * (2 * soft - 1) - 2.5 * (1 - quality) * (noise - 1)))
    labels = ((probability > 0.5) & head).astype(np.uint8)
    if quality < 0.3:
        labels[(labels == 1) & (np.arange(SHAPE[0]) < SHAPE[0] // 3)[:, None, None]] = 2
    if not lesion.any() and quality > 0.8:
        labels[:] = 0
    return labels, probability


def _bins(probability, lesion):
    for low, high in pairwise(BINS):
        inside = (probability >= low) & (probability < high)
        mean = float(probability[inside].mean()) if inside.any() else ""
        yield {
            "bin_low": low,
            "bin_high": high,
            "voxels": int(inside.sum()),
            "mean_probability": mean,
            "positives": int(lesion[inside].sum()),
        }


def _case(folder, scan, patient, visit, image, lesion, files):
    case = {
        "id": scan,
        "patient": patient,
        "session": str(visit),
        "flair": str(folder / f"{scan}.nii.gz"),
        "lesion": str(folder / f"{scan}-l.nii.gz"),
    }
    if patient == "P01":
        case["second"] = str(folder / f"{scan}-second.nii.gz")
    if files:
        nibabel.save(nibabel.Nifti1Image(image, AFFINE), case["flair"])
        nibabel.save(nibabel.Nifti1Image(lesion.astype(np.uint8), AFFINE), case["lesion"])
        if "second" in case:
            nibabel.save(nibabel.Nifti1Image(np.roll(lesion, 1, 1).astype(np.uint8), AFFINE), case["second"])
    return case


def _write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
