"""The same numbers everywhere, the words every output owes its reader, and the same bytes twice."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from model.volume import Volume
from tests.worker.encode.cases import affine, context_of, series_of, textured
from tests.worker.encode.test_seg import PLANES
from worker.encode import DICOM_ENCODERS, encode_all, nifti, pdf, preview, report_json, seg
from worker.encode.display import AXIAL, LESION_COLOUR, TUMOUR_LIKE_COLOUR, level_positions, open_scene, picture
from worker.encode.wording import STATEMENT, sentence

SHAPE = (48, 56, 24)
FORBIDDEN = re.compile(r"progress|respon[ds](?!e assessment \(RANO\))|stable|remission|pseudo", re.IGNORECASE)


def masked():
    labels = np.zeros(SHAPE, np.uint8)
    labels[8:14, 10:18, 6:10] = 1
    labels[30:33, 40:43, 12] = 1
    labels[30:40, 20:30, 14:18] = 2
    brain = np.zeros(SHAPE, bool)
    brain[4:44, 4:52, 2:22] = True
    return labels, brain


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    labels, brain = masked()
    volume = Volume(textured(SHAPE), affine(PLANES["axial"], (1.5, 1.5, 4.0)))
    headers = {"PatientName": "Doe^Jane", "PatientID": "P-1", "StudyDescription": "é ≥ 3 mm³"}
    series = series_of(volume, tmp_path_factory.mktemp("in"), headers=headers)
    return context_of(series, labels, brain=brain, quality=("A plain sentence",))


@pytest.fixture(scope="module")
def page(peer, context, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pdf")
    (folder / "report.pdf").write_bytes(pdf.encode(context).data)
    command = [peer("pdftotext"), "-layout", "-enc", "UTF-8", str(folder / "report.pdf"), "-"]
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout.decode()


def test_numbers_agree_between_segmentation_nifti_json_and_page(context, page):
    report = json.loads(report_json.encode(context).data)
    found = report["findings"]
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(nifti.encode(context).data))
    voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    labels = np.asarray(image.dataobj)
    dataset = pydicom.dcmread(BytesIO(seg.encode(context).data))
    frames = dataset.pixel_array.reshape(2, SHAPE[2], SHAPE[1], SHAPE[0])
    for value, key in ((1, "lesion_volume_ml"), (2, "tumour_like_volume_ml")):
        assert found[key] == pytest.approx((labels == value).sum() * voxel_ml, abs=1e-3)
        assert found[key] == pytest.approx(frames[value - 1].sum() * voxel_ml, abs=1e-3)
        assert f"{found[key]:.2f}" in page
    for key in (key for key in found if key.endswith("_ml")):
        assert found[key] == getattr(context.findings, key)  # what the case book, the pictures and the preview say
    measured = (*context.findings.lesions, *context.findings.tumour_like)
    assert [one["volume_ml"] for one in (*found["lesions"], *found["tumour_like"])] == [one.volume_ml for one in measured]
    assert found["lesion_count"] == 2 == len(found["lesions"])
    assert sum(lesion["volume_ml"] for lesion in found["lesions"]) == pytest.approx(found["lesion_volume_ml"], abs=1e-3)
    assert found["total_hyperintensity_ml"] == pytest.approx(found["lesion_volume_ml"] + found["tumour_like_volume_ml"], abs=1e-3)
    assert report["headline"]["volume_ml"] == found["total_hyperintensity_ml"]
    assert f"{found['brain_volume_ml']:.0f}" in page
    assert f"{found['lesion_share_of_brain_percent']:.3f}" in page
    assert report["volume_estimates"]["by_threshold_ml"] == found["lesion_volume_ml"]
    assert report["segmentation_uid"] == dataset.SOPInstanceUID
    assert [roi["roi"] for roi in report["contours"]["rois"]] == ["WMH", "Tumour-like"]
    for roi, key in zip(report["contours"]["rois"], ("lesion_volume_ml", "tumour_like_volume_ml"), strict=True):
        assert roi["mask_ml"] == roi["grid_ml"] == roi["rasterised_ml"] == found[key]
        assert (roi["change_percent"], roi["dice_on_grid"]) == (0.0, 1.0)
    counted = context.masks.lesion_probability[context.masks.brain & (labels != 2)]
    assert report["volume_estimates"]["by_probability_ml"] == pytest.approx(counted.sum() * voxel_ml, abs=1e-3)
    assert "acquisition's own planes." in " ".join(page.split())  # the definition is not cut


def test_every_output_says_what_it_is(context, page):
    report = json.loads(report_json.encode(context).data)
    assert report["schema"] == "leukoscope-report/1"
    assert report["statement"] == STATEMENT
    assert report["headline"]["label"] == "Total FLAIR hyper-intensity, tumour not confirmed"
    flat = " ".join(page.split())
    for words in (
        STATEMENT,
        "No irradiated patient was in training or evaluation",
        "tumour not confirmed",
        "P-1",
        "Doe, Jane",
        "é ≥ 3 mm³",
    ):
        assert words in flat
    assert {"flag": "A plain sentence", "sentence": "A plain sentence."} in report["quality"]
    assert "A plain sentence." in flat
    for text in (flat, json.dumps(report)):
        assert FORBIDDEN.findall(text.replace(STATEMENT, "")) == []


def test_one_page_only(peer, context, tmp_path):
    (tmp_path / "report.pdf").write_bytes(pdf.encode(context).data)
    said = subprocess.run([peer("pdfinfo"), str(tmp_path / "report.pdf")], check=True, capture_output=True, text=True).stdout
    assert re.search(r"Pages:\s+1\b", said)


def test_many_lesions_and_flags_stay_on_the_page(peer, tmp_path):
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:46:4, 2:54:4, 2:22:4] = 1
    volume = Volume(textured(SHAPE), affine(PLANES["coronal"], (1.5, 1.5, 4.0)))
    flags = tuple(f"flag-{number}: " + "a long explanation of what limits this result " * 2 for number in range(14))
    found = context_of(series_of(volume, tmp_path / "in"), labels, quality=flags)
    (tmp_path / "report.pdf").write_bytes(pdf.encode(found).data)
    text = subprocess.run(
        [peer("pdftotext"), "-layout", str(tmp_path / "report.pdf"), "-"], check=True, capture_output=True, text=True
    ).stdout
    assert "more in report.json" in text
    assert len(json.loads(report_json.encode(found).data)["quality"]) >= 14


def test_limits_of_the_release_are_whole_and_said_once(peer, context, tmp_path):
    irradiated = "No irradiated patient was in training or evaluation."
    limits = (irradiated, *(f"Limit {number} of {'what was measured ' * 8}on {number} scans." for number in range(9)))
    summary = "A network. No irradiated patient in training or evaluation."
    card = context.release.card.model_copy(update={"summary": summary, "limits": limits})
    found = replace(context, release=replace(context.release, card=card))
    (tmp_path / "report.pdf").write_bytes(pdf.encode(found).data)
    command = [peer("pdftotext"), "-layout", str(tmp_path / "report.pdf"), "-"]
    small = " ".join(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()).partition("A network.")[2]
    assert small.count("No irradiated patient") == 1
    (left,) = map(int, re.findall(r"… (\d+) more in report\.json", small))
    shown = [limit for limit in limits[1:] if " ".join(limit.split()) in small]
    assert shown == list(limits[1 : 1 + len(shown)])
    assert len(shown) + left == 9
    assert len(shown) >= 4
    assert small.count("Limit ") == len(shown), "none is cut"
    assert json.loads(report_json.encode(found).data)["limits"] == list(limits)


def test_nothing_found_is_said(peer, tmp_path):
    volume = Volume(textured(SHAPE), affine(PLANES["sagittal"], (1.5, 1.5, 4.0)))
    empty = context_of(series_of(volume, tmp_path / "in"), np.zeros(SHAPE, np.uint8), brain=np.zeros(SHAPE, bool))
    (tmp_path / "report.pdf").write_bytes(pdf.encode(empty).data)
    text = subprocess.run([peer("pdftotext"), str(tmp_path / "report.pdf"), "-"], check=True, capture_output=True, text=True).stdout
    assert "No FLAIR hyper-intensity found" in " ".join(text.split())
    assert json.loads(report_json.encode(empty).data)["findings"]["lesion_share_of_brain_percent"] is None
    assert Image.open(BytesIO(preview.encode(empty).data)).width > 1000


def test_nifti_input_gives_everything_but_dicom():
    labels, brain = masked()
    context = context_of(Volume(textured(SHAPE), affine(PLANES["axial"], (1.5, 1.5, 4.0))), labels, brain=brain)
    outputs = encode_all(context)
    assert [output.filename for output in outputs] == ["segmentation.nii.gz", "report.json", "report.pdf", "preview.png"]
    assert json.loads(outputs[1].data)["subject"] is None
    assert json.loads(outputs[1].data)["contours"] is None
    for encode in DICOM_ENCODERS:
        with pytest.raises(ValueError, match="DICOM series"):
            encode(context)


def test_nifti_keeps_the_place_in_the_patient(context):
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(nifti.encode(context).data))
    assert np.allclose(image.affine, context.volume.affine_ras, atol=1e-4)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    assert np.allclose(image.get_qform(), context.volume.affine_ras, atol=1e-3)
    assert image.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(image.dataobj), context.masks.labels)


def digests():
    labels, brain = masked()
    volume = Volume(textured(SHAPE), affine(PLANES["coronal"], (1.5, 1.5, 4.0)))
    case = context_of(series_of(volume, Path(tempfile.mkdtemp())), labels, brain=brain)
    return [f"{output.kind} {hashlib.sha256(output.data).hexdigest()}" for output in encode_all(case)]


def test_another_process_gives_the_same_bytes():
    """Hash seeds, addresses and the clock differ; the bytes do not."""
    script = "from tests.worker.encode.test_report import digests; print('\\n'.join(digests()))"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines() == digests()


@pytest.mark.parametrize("plane", PLANES)
def test_pictures_are_radiological_and_square(plane, tmp_path):
    """What lies in the patient's right front is in the picture's upper left, whatever way the scan was stored."""
    shape, spacing = (40, 30, 20), (1.0, 1.5, 2.5)
    grid = affine(PLANES[plane], spacing, origin=(0.0, 0.0, 0.0))
    grid[:3, 3] = -grid[:3, :3] @ ((np.array(shape) - 1) / 2)
    index = np.indices(shape).reshape(3, -1)
    place = grid[:3, :3] @ index + grid[:3, 3:]
    right_front = ((place[0] > 4) & (place[1] > 4)).reshape(shape)
    data = np.where(right_front, 900.0, 100.0).astype(np.float32)
    labels = np.zeros(shape, np.uint8)
    scene = open_scene(context_of(Volume(data, grid), labels, brain=np.ones(shape, bool)))
    shown = picture(scene, AXIAL, scene.image.shape[2] // 2, 2.0).mean(axis=2)
    rows, columns = np.array(shown.shape) // 2
    quarters = {(up, left): shown[:rows, :] if up else shown[rows:, :] for up in (True, False) for left in (True, False)}
    means = {key: (part[:, :columns] if key[1] else part[:, columns:]).mean() for key, part in quarters.items()}
    assert max(means, key=means.get) == (True, True)
    width_mm, height_mm = scene.size_mm(AXIAL)
    assert shown.shape[1] / shown.shape[0] == pytest.approx(width_mm / height_mm, rel=0.05)


def test_outlines_have_the_colours_of_the_legend(context):
    scene = open_scene(context)
    seen = set()
    for level in level_positions(scene, 12):
        seen |= {tuple(colour) for colour in np.unique(picture(scene, AXIAL, level, 2.0).reshape(-1, 3), axis=0).tolist()}
    assert LESION_COLOUR in seen
    assert TUMOUR_LIKE_COLOUR in seen


def test_levels_pass_through_small_lesions_beside_a_large_tumour(context):
    scene = open_scene(context)
    levels = level_positions(scene, 6)
    assert levels == sorted(set(levels))
    assert any((scene.labels[:, :, level] == 1).any() for level in levels)
    assert any((scene.labels[:, :, level] == 2).any() for level in levels)


def test_sentences():
    assert sentence("thick-slices: 4.0 mm thick") == "Thick slices: 4.0 mm thick."
    assert sentence("Already a sentence.") == "Already a sentence."
    assert sentence("Note: a capital letter is no code") == "Note: a capital letter is no code."
