"""Tiny annotated folders in every layout, written as their makers do; contrast and shape of a head, at 4 mm."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np

SHAPE = (44, 52, 40)
SPACING_MM = 4.0


def make_scan(seed: int = 0, kind: str = "FLAIR", head: bool = False) -> np.ndarray:
    """A brain with cortex, fluid and lesions where `make_labels` has them, in the contrast of a FLAIR, T1 or T2; float32."""
    radius = _radius()
    cortex, white, fluid, lesion = {"FLAIR": (110, 100, 25, 170), "T1": (70, 100, 25, 60), "T2": (120, 100, 260, 170)}[kind]
    random = np.random.default_rng(seed)
    image = np.where(radius < 0.86, white, cortex) + 4.0 * random.normal(size=SHAPE)
    image[radius < 0.2] = fluid
    image[make_labels() == 1] = lesion
    image[radius > 1.0] = 0
    if head:
        image[(radius > 1.1) & (radius < 1.18)] = 140
        image += np.abs(3 * random.normal(size=SHAPE))
    return image.astype(np.float32)


def make_labels(number: int = 8) -> np.ndarray:
    """So many lesions (1) in white matter, one piece of something else (2); uint8."""
    labels = np.zeros(SHAPE, np.uint8)
    centres = [(14, 18, 16), (30, 18, 16), (14, 34, 16), (30, 34, 16), (14, 18, 26), (30, 18, 26), (14, 34, 26), (30, 34, 26)]
    for i, j, k in centres[:number]:
        labels[i : i + 2, j : j + 2, k : k + 2] = 1
    labels[21:24, 36:39, 20:22] = 2
    return labels


def _radius() -> np.ndarray:
    axes = [(np.arange(n) - (n - 1) / 2) * SPACING_MM / r for n, r in zip(SHAPE, (68.0, 84.0, 64.0), strict=True)]
    return np.sqrt(axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2)


def save(path: Path, data: np.ndarray, shift_mm: float = 0.0) -> Path:
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    affine[0, 3] = shift_mm
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


def one(labels: np.ndarray, *values: int) -> np.ndarray:
    return np.isin(labels, values).astype(np.uint8)


def brats2018(root: Path) -> None:
    name = root / "HGG" / "Brats18_TCIA01_123_1" / "Brats18_TCIA01_123_1"
    save(Path(f"{name}_flair.nii.gz"), make_scan())
    save(Path(f"{name}_t1.nii.gz"), make_scan(kind="T1"))
    save(Path(f"{name}_seg.nii.gz"), make_labels() * 2)


def brats2021(root: Path) -> None:
    name = root / "BraTS2021_00002" / "BraTS2021_00002"
    save(Path(f"{name}_flair.nii.gz"), make_scan())
    save(Path(f"{name}_seg.nii.gz"), make_labels() * 2)


def brats2024(root: Path) -> None:
    name = root / "BraTS-GLI-02073-101" / "BraTS-GLI-02073-101"
    save(Path(f"{name}-t2f.nii.gz"), make_scan())
    save(Path(f"{name}-t1n.nii.gz"), make_scan(kind="T1"))
    save(Path(f"{name}-seg.nii.gz"), make_labels() * 2)  # 2 = oedema, 4 = resection cavity


def msd(root: Path) -> None:
    save(root / "imagesTr" / "BRATS_001.nii.gz", np.stack([make_scan(), make_scan(kind="T1")], axis=-1))
    save(root / "labelsTr" / "BRATS_001.nii.gz", make_labels())
    described = {
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "training": [{"image": "./imagesTr/BRATS_001.nii.gz", "label": "./labelsTr/BRATS_001.nii.gz"}],
    }
    (root / "dataset.json").write_text(json.dumps(described))


def nnunet(root: Path) -> None:
    save(root / "imagesTr" / "WML_007_0000.nii.gz", make_scan(kind="T1"))
    save(root / "imagesTr" / "WML_007_0001.nii.gz", make_scan())
    save(root / "labelsTr" / "WML_007.nii.gz", make_labels())
    described = {
        "channel_names": {"0": "T1", "1": "T2-FLAIR"},
        "labels": {"background": 0, "WMH": 1, "ignore": 2},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(described))


def bids(root: Path) -> None:
    (root / "dataset_description.json").parent.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    (root / "participants.tsv").write_text("participant_id\tage\tsite\nsub-03\t61\tLyon\n")
    save(root / "sub-03" / "ses-02" / "anat" / "sub-03_ses-02_FLAIR.nii.gz", make_scan())
    save(root / "sub-03" / "ses-02" / "anat" / "sub-03_ses-02_T1w.nii.gz", make_scan(kind="T1"))
    labels = make_labels()
    for rater, name, lesion in (("a", "label-lesion_mask", one(labels, 1)), ("b", "desc-lesion_mask", one(make_labels(6), 1))):
        save(root / "derivatives" / f"rater-{rater}" / "sub-03" / "ses-02" / "anat" / f"sub-03_ses-02_{name}.nii.gz", lesion)
    save(root / "derivatives" / "rater-a" / "sub-03" / "ses-02" / "anat" / "sub-03_ses-02_label-ignore_mask.nii.gz", one(labels, 2))


def wmh2017(root: Path) -> None:
    place = Path("training") / "Amsterdam" / "GE3T" / "100"
    save(root / place / "pre" / "FLAIR.nii.gz", make_scan())
    save(root / place / "wmh.nii.gz", make_labels())
    save(root / "additional_annotations" / "observer_o3" / place / "result.nii.gz", make_labels(6))


def msseg2016(root: Path) -> None:
    place = root / "Training" / "Center_01" / "Patient_03"
    save(place / "Raw_Data" / "FLAIR.nii.gz", make_scan(head=True))
    save(place / "Preprocessed_Data" / "FLAIR_preprocessed.nii.gz", make_scan())
    save(place / "Masks" / "Consensus.nii.gz", one(make_labels(), 1))
    for number, lesions in ((1, 8), (2, 6), (3, 8)):
        save(place / "Masks" / f"ManualSegmentation_{number}.nii.gz", one(make_labels(lesions), 1))


def mslesseg(root: Path) -> None:
    save(root / "train" / "P14" / "T2" / "P14_T2_FLAIR.nii.gz", make_scan())
    save(root / "train" / "P14" / "T2" / "P14_T2_MASK.nii.gz", one(make_labels(), 1))


def open_ms_mni(root: Path) -> None:
    place = root / "cross_sectional" / "MNI" / "patient07"
    save(place / "FLAIR_N4_regtoMNI.nii.gz", make_scan())
    save(place / "GOLD_STANDARD_N4_regtoMNI.nii.gz", one(make_labels(), 1))


def open_ms_raw(root: Path) -> None:
    place = root / "longitudinal" / "patient01"
    save(place / "study1_FLAIR.nii.gz", make_scan(head=True))
    save(place / "gt.nii.gz", one(make_labels(), 1))
    save(place / "brainmask.nii.gz", (make_scan() > 0).astype(np.uint8))
    identity = "Transform: Euler3DTransform_double_3_3\nParameters: 0 0 0 0 0 0\nFixedParameters: 0 0 0 0\n"
    (place / "study1_FLAIR_to_common_space.txt").write_text(f"#Insight Transform File V1.0\n#Transform 0\n{identity}")


def ljubljana(root: Path) -> None:
    save(root / "patient05" / "patient05_FLAIR.nii.gz", make_scan(head=True))
    save(root / "patient05" / "patient05_consensus_gt.nii.gz", one(make_labels(), 1))
    save(root / "patient05" / "patient05_brainmask.nii.gz", (make_scan() > 0).astype(np.uint8))


def manifest(root: Path) -> None:
    save(root / "scans" / "a.nii.gz", np.stack([make_scan(kind="T1"), make_scan()], axis=-1))
    save(root / "masks" / "a.nii.gz", make_labels())
    names = "patient;session;site;flair;channel;lesion;lesion_values;ignore;ignore_values"
    row = "Dupont;2;Lyon;scans/a.nii.gz;1;masks/a.nii.gz;1;masks/a.nii.gz;2"
    (root / "manifest.csv").write_text(f"\ufeff{names}\n{row}\n", encoding="utf-8")  # as a spreadsheet in French saves it


def write_cohort(root: Path, **changes: str) -> Path:
    """Three patients in a manifest; `changes`: columns of the second one."""
    rows = []
    for number, name in enumerate(("anna", "bert", "carl")):
        save(root / f"{name}.nii.gz", make_scan(seed=number))
        save(root / f"{name}-mask.nii.gz", one(make_labels(), 1))
        rows.append({"patient": name, "session": "1", "flair": f"{name}.nii.gz", "lesion": f"{name}-mask.nii.gz", "provenance": ""})
    rows[1] |= changes
    lines = [",".join(rows[1]), *(",".join(row.get(name, "") for name in rows[1]) for row in rows)]
    (root / "manifest.csv").write_text("\n".join(lines))
    return root
