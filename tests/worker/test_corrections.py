"""SEGs that came back, by our own encoder, highdicom and dcmqi, read as training data on the grid of the source."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.sr.codedict import codes

from model.volume import Volume
from service.errors import Rejected
from tests.worker.encode.cases import affine, context_of, series_of, textured
from tests.worker.encode.test_seg import PLANES, SHAPE, blobs
from tests.workstation import described, drawn
from worker.corrections import NOT_CORRECTED, read_corrections
from worker.encode import seg


@pytest.fixture
def write_scan(tmp_path):
    def write(seed="one", plane="oblique", **options):
        volume = Volume(textured(SHAPE, seed=len(seed)), affine(PLANES[plane], (0.9, 1.1, 2.5)))
        return series_of(volume, tmp_path / "in" / seed, uid_seed=seed, **options)

    return write


def write_foreign(folder, series, labels, descriptions, name="corrected.dcm", kind="BINARY", **options):
    """A workstation's SEG of the series, beside it."""
    files = {str(one.SOPInstanceUID): one for one in map(pydicom.dcmread, (folder / "in").rglob("*.dcm"))}
    sources = [files[frame.sop_instance_uid] for frame in series.frames]
    made = drawn(sources, labels, descriptions, kind, **options)
    path = folder / "in" / name
    made.save_as(path)
    return path


def read_back(folder):
    manifest = read_corrections(folder / "in", folder / "out")
    with manifest.open() as file:
        rows = list(csv.DictReader(file))
    roles = ("flair", "lesion", "tumour", "ignore", "brain")
    return rows, {(row["scan"], role): nibabel.load(manifest.parent / row[role]) for row in rows for role in roles if row[role]}


def only(images, role):
    (image,) = [image for (_, name), image in images.items() if name == role]
    return np.asarray(image.dataobj), image.affine


@pytest.mark.parametrize("enhanced", [False, True], ids=["classic", "enhanced"])
@pytest.mark.parametrize("plane", ["sagittal", "oblique"])
def test_our_own_result_comes_back_voxel_for_voxel_and_says_that_nobody_corrected_it(tmp_path, write_scan, plane, enhanced):
    series = write_scan(plane=plane, enhanced=enhanced, order=range(SHAPE[2])[::-1])
    labels = blobs(SHAPE, tumour=True)
    (tmp_path / "in" / "result.dcm").write_bytes(seg.encode(context_of(series, labels)).data)
    rows, images = read_back(tmp_path)
    flair, affine_ras = only(images, "flair")
    assert np.array_equal(flair, series.volume.data)
    assert np.allclose(affine_ras, series.volume.affine_ras, atol=1e-4)
    assert np.array_equal(only(images, "lesion")[0], labels == 1)
    assert np.array_equal(only(images, "ignore")[0], labels == 2)  # a tumour only we drew: nobody confirmed it
    assert NOT_CORRECTED in rows[0]["provenance"]
    assert not rows[0]["tumour"]


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_anothers_correction_counts_before_our_result(tmp_path, write_scan, kind):
    series = write_scan()
    (tmp_path / "in" / "result.dcm").write_bytes(seg.encode(context_of(series, blobs(SHAPE))).data)
    labels = blobs(SHAPE, seed=5, tumour=True)
    write_foreign(tmp_path, series, labels, [described(1, "WMH"), described(2, "Oedema and tumour")], kind=kind)
    rows, images = read_back(tmp_path)
    assert np.array_equal(only(images, "lesion")[0], labels == 1)
    assert np.array_equal(only(images, "tumour")[0], labels == 2)
    assert "Workstation" in rows[0]["provenance"]
    assert NOT_CORRECTED not in rows[0]["provenance"]


def test_a_fractional_correction_counts_from_one_half(tmp_path, write_scan):
    series = write_scan()
    share = np.random.default_rng(2).choice([0.0, 0.4, 0.6, 1.0], SHAPE).astype(np.float32)
    code = codes.DCM.WhiteMatterT2Hyperintensity
    write_foreign(tmp_path, series, share, [described(1, "Segment_1", code)], kind="FRACTIONAL", max_fractional_value=200)
    assert np.array_equal(only(read_back(tmp_path)[1], "lesion")[0], share > 0.5)


def test_dcmqi_writes_a_correction_that_is_read_voxel_for_voxel(tmp_path, write_scan):
    binary = Path(pytest.importorskip("dcmqi").__file__).parent / "bin" / "itkimage2segimage"
    series = write_scan()
    labels = blobs(SHAPE, seed=4)
    image = SimpleITK.GetImageFromArray(labels.transpose(2, 1, 0).copy())
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ series.volume.affine_ras
    image.SetSpacing(series.volume.spacing_mm.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / series.volume.spacing_mm).ravel().tolist())
    SimpleITK.WriteImage(image, str(tmp_path / "labels.nrrd"))
    code = {"CodeValue": "110702", "CodingSchemeDesignator": "DCM", "CodeMeaning": "White Matter T2 Hyperintensity"}
    category = {"CodeValue": "49755003", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Morphologically Altered Structure"}
    segment = {"labelID": 1, "SegmentLabel": "drawn", "SegmentAlgorithmType": "MANUAL",
               "SegmentedPropertyCategoryCodeSequence": category, "SegmentedPropertyTypeCodeSequence": code}  # fmt: skip
    (tmp_path / "meta.json").write_text(json.dumps({"ContentCreatorName": "A", "SeriesDescription": "s", "SeriesNumber": "9",
        "InstanceNumber": "1", "ContentLabel": "S", "segmentAttributes": [[segment]]}))  # fmt: skip
    command = [binary, "--inputImageList", tmp_path / "labels.nrrd", "--inputDICOMDirectory", tmp_path / "in" / "one",
               "--outputDICOM", tmp_path / "in" / "dcmqi.dcm", "--inputMetadata", tmp_path / "meta.json"]  # fmt: skip
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=60)
    assert np.array_equal(only(read_back(tmp_path)[1], "lesion")[0], labels == 1)


def test_visits_are_numbered_and_no_identifier_of_the_patient_goes_along(tmp_path, write_scan):
    for seed, day, patient in (("one", "20260302", "4711"), ("two!", "20250101", "4711"), ("three", "20260101", "0815")):
        series = write_scan(seed, patient_id=patient, headers={"StudyDate": day})
        write_foreign(tmp_path, series, blobs(SHAPE, seed=len(seed)), [described(1, "Lesion")], name=f"{seed}.dcm")
    rows, images = read_back(tmp_path)
    twice = [row for row in rows if row["session"] == "2"]
    assert len(rows) == 3
    assert len({row["patient"] for row in rows}) == 2
    assert np.array_equal(np.asarray(images[twice[0]["scan"], "lesion"].dataobj), blobs(SHAPE, seed=3) == 1)
    written = b"".join(path.name.encode() + path.read_bytes() for path in (tmp_path / "out").iterdir())
    for secret in (b"4711", b"0815", b"PHANTOM"):
        assert secret not in written


def test_a_seg_that_cannot_be_used_is_refused_in_words(tmp_path, write_scan):
    series = write_scan()
    with pytest.raises(Rejected, match="no DICOM segmentation"):
        read_corrections(tmp_path / "in", tmp_path / "out")
    path = write_foreign(tmp_path, series, blobs(SHAPE), [described(1, "Segment_1")])
    with pytest.raises(Rejected, match=r"corrected\.dcm: no segment is called a lesion or a tumour \(there are: 1 'Segment_1'\)"):
        read_corrections(tmp_path / "in", tmp_path / "out")
    moved = pydicom.dcmread(write_foreign(tmp_path, series, blobs(SHAPE), [described(1, "Lesion")]))
    moved.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.55, 0.45]
    moved.save_as(path)
    with pytest.raises(Rejected, match="lies on another grid than its source series"):
        read_corrections(tmp_path / "in", tmp_path / "out")
    shutil.rmtree(tmp_path / "in" / "one")
    with pytest.raises(Rejected, match=r"the series that corrected\.dcm was drawn on is not in the folder"):
        read_corrections(tmp_path / "in", tmp_path / "out")
