"""What a release learns of contrast: from scans alone, so that what is no FLAIR stands out."""

from __future__ import annotations

import pydicom

from model import familiar
from model.preprocess import prepare
from model.training.configuration import read_config
from model.training.evidence import learn_contrast
from model.training.layouts.case import read_volume
from model.volume import Volume
from tests.conftest import ROOT
from tests.model.training.folders import make_scan, save
from worker import convert

CONFIG = read_config(ROOT / "model" / "training" / "configurations" / "release-0.3.0.yaml")


def with_data(root, sources=CONFIG.data.sources):
    return CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update={"root": root, "sources": sources})})


def flags(volume: Volume, contrast):
    return familiar.flags(prepare(volume, CONFIG.input).profile, contrast)


def test_scans_decide_what_is_usual_and_phantoms_do_not(tmp_path):
    kinds = {"T1": "T1", "T2": "T2", "another": "FLAIR"}
    for number in range(5):
        save(tmp_path / f"{number}.nii", make_scan(number))
    (tmp_path / "manifest.csv").write_text("patient,flair\n" + "".join(f"P{number},{number}.nii\n" for number in range(5)))
    said: list[str] = []
    source = CONFIG.data.sources[0].model_copy(update={"layout": "manifest", "folder": ".", "held_out": ("P4",)})
    contrast = learn_contrast(with_data(tmp_path, (source,)), said.append)
    assert CONFIG.data.phantom_seeds and contrast.volumes == len(said) == 4
    seen = {name: bool(flags(read_volume(save(tmp_path / f"{name}.nii", make_scan(9, kind))), contrast)) for name, kind in kinds.items()}
    assert seen == {"T1": True, "T2": True, "another": False}
    few = source.model_copy(update={"use": ("P0", "P1", "P2")})
    assert learn_contrast(with_data(tmp_path, (few,)), said.append) is None and "too few" in said[-1]


def test_real_T1_and_EPI_are_told_from_the_training_scans_and_unseen_FLAIR_are_not(shared_data):
    contrast = learn_contrast(with_data(shared_data), lambda _: None)
    dicom = shared_data / "dicom" / "not_flair"
    others = [
        *(dicom / "dcm_qa_xa30_siemens_enhanced").glob("[56]_anat-T1w*/*.dcm"),
        *(dicom / "dcm_qa_enh_siemensXA_philips" / "Siemens" / "XA10").rglob("*.dcm"),
    ]
    assert len(others) >= 6
    for path in others:
        assert flags(convert.read_series([path]).volume, contrast), pydicom.dcmread(path).SeriesDescription
    unseen = [*shared_data.glob("brats2021/*_01485/*_flair.nii.gz"), *shared_data.glob("open_ms/longitudinal/patient19/*_FLAIR.nii.gz")]
    assert len(unseen) == 3
    for path in unseen:
        assert flags(read_volume(path), contrast) == (), path.name
