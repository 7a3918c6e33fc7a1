"""The whole flow of one case, with a network that takes what is bright for a lesion."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

from model.volume import UnusableVolume, Volume
from service.errors import Rejected
from service.sections import RTStruct, Segmentation
from tests.worker.encode.cases import RELEASE
from worker import pipeline
from worker.phantom import write_series

CARD = RELEASE.card.model_copy(
    update={
        "input": RELEASE.card.input.model_copy(update={"shapes": ((160, 192, 160), (192, 224, 192))}),
        # resampling overshoots at the rim of the head: what is bright there is small
        "lesion": RELEASE.card.lesion.model_copy(update={"smallest_mm3": 300.0}),
    }
)
HEAD = type(RELEASE)(CARD, RELEASE.folder)
SHAPE = (72, 88, 56)
SPACING_MM = (2.5, 2.5, 3.0)
STAGES = ["convert", "preprocess", "predict", "postprocess", "measure", "encode"]


class Bright:
    """An engine in the place of the network's: lesion where bright, brain where there is head."""

    name = "bright"
    precision = "f32"

    def run(self, x):
        field = x[0, 0]
        logits = np.full((1, 3, *field.shape), -12.0, np.float32)
        logits[0, 0][field > 3.5] = 12.0
        logits[0, 2][field != 0] = 12.0
        return logits

    def warm(self, shape):
        pass


def head():
    """An ellipsoid of tissue with three bright balls, all on an oblique-free axial grid; and where the balls are."""
    rng = np.random.default_rng(5)
    centre = (np.array(SHAPE) - 1) / 2
    place = (np.indices(SHAPE).reshape(3, -1).T - centre) * SPACING_MM
    inside = ((place / (72, 92, 74)) ** 2).sum(axis=1) < 1
    data = np.where(inside, 400 + rng.uniform(-43, 43, len(place)), np.abs(rng.normal(0, 6, len(place))))
    balls = np.zeros(len(place), bool)
    for middle, radius in (((25, 20, 10), 9), ((-30, -25, 0), 7), ((20, -30, 25), 6)):
        balls |= np.linalg.norm(place - middle, axis=1) < radius
    data[balls] = 900
    affine = np.diag([*SPACING_MM, 1.0]) @ np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = (90, 110, -80)
    return Volume(np.rint(data.reshape(SHAPE)).astype(np.float32), affine), balls.reshape(SHAPE)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    volume, _ = head()
    return write_series(volume, tmp_path_factory.mktemp("series"))


@pytest.fixture(scope="module")
def result(files):
    return pipeline.run(files, HEAD, Bright(), on_stage=SEEN.append)


SEEN: list[str] = []


def test_every_stage_is_announced_and_timed(result):
    assert SEEN == STAGES
    assert list(result.stages) == STAGES
    starts = [start for start, _ in result.stages.values()]
    assert starts == sorted(starts)
    assert all(seconds >= 0 for _, seconds in result.stages.values())
    for output in result.outputs:
        assert b'"stages"' not in output.data


def test_the_lesions_are_found_where_they_are(result):
    _, balls = head()
    assert result.findings.lesion_count == 3
    assert {lesion.side for lesion in result.findings.lesions} == {"left", "right"}
    voxel_ml = np.prod(SPACING_MM) / 1000
    assert result.findings.lesion_volume_ml == pytest.approx(balls.sum() * voxel_ml, rel=0.25)
    assert (result.engine, result.precision) == ("bright", "f32")


def test_outputs_and_their_names(result):
    assert [(output.kind, output.filename, output.media_type) for output in result.outputs] == [
        ("segmentation", "segmentation.dcm", "application/dicom"),
        ("structured-report", "structured-report.dcm", "application/dicom"),
        ("rtstruct", "rtstruct.dcm", "application/dicom"),
        ("report.dcm", "report.dcm", "application/dicom"),
        ("preview.dcm", "preview.dcm", "application/dicom"),
        ("segmentation.nii.gz", "segmentation.nii.gz", "application/gzip"),
        ("report.json", "report.json", "application/json"),
        ("report.pdf", "report.pdf", "application/pdf"),
        ("preview.png", "preview.png", "image/png"),
    ]
    objects = {output.kind: output for output in result.outputs if output.media_type == "application/dicom"}
    assert {kind: output.sop_class_uid for kind, output in objects.items()} == {
        "segmentation": "1.2.840.10008.5.1.4.1.1.66.4",
        "structured-report": "1.2.840.10008.5.1.4.1.1.88.34",
        "rtstruct": "1.2.840.10008.5.1.4.1.1.481.3",
        "report.dcm": "1.2.840.10008.5.1.4.1.1.104.1",
        "preview.dcm": "1.2.840.10008.5.1.4.1.1.7",
    }
    assert len({output.sop_instance_uid for output in objects.values()}) == 5
    assert all(str(output.sop_instance_uid).startswith("2.25.") for output in objects.values())
    assert all(output.sop_instance_uid is None for output in result.outputs if output.kind not in objects)


def test_a_tilted_scan_gets_an_axial_series_beside_its_contours(tmp_path):
    volume, _ = head()
    tilted = volume.affine_ras.copy()
    turn = np.radians(12)
    tilted[1:3, :3] = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ tilted[1:3, :3]
    outputs = pipeline.run(write_series(Volume(volume.data, tilted), tmp_path), HEAD, Bright()).outputs
    assert [output.kind for output in outputs][:4] == ["segmentation", "structured-report", "rtstruct", "resampled.zip"]
    (roi,) = json.loads(next(output.data for output in outputs if output.kind == "report.json"))["contours"]["rois"]
    assert roi["dice_on_grid"] >= 0.99
    assert abs(roi["change_percent"]) < 5


def test_settings_of_the_objects_reach_them_and_change_every_uid(files, result):
    chosen = Segmentation(encoding="labelmap", lesion_segments=2, brain=True)
    other = pipeline.run(files, HEAD, Bright(), segmentation=chosen, rtstruct=RTStruct(lesion_rois=2))
    drawn, before = ({output.kind: output for output in run.outputs} for run in (other, result))
    assert b"WMH 2" in drawn["rtstruct"].data
    assert b"WMH 2" not in before["rtstruct"].data
    assert drawn["segmentation"].sop_class_uid == "1.2.840.10008.5.1.4.1.1.66.7"
    assert b"hyper-intensity, others" in drawn["segmentation"].data
    objects = [kind for kind, output in drawn.items() if output.sop_instance_uid]
    assert len(objects) == 5
    assert all(drawn[kind].sop_instance_uid != before[kind].sop_instance_uid for kind in objects)


def test_any_order_gives_the_same_bytes_and_a_revision_other_uids(files, result):
    shuffled = random.Random(3).sample(files, len(files))
    again = pipeline.run(shuffled, HEAD, Bright())
    assert [output.data for output in again.outputs] == [output.data for output in result.outputs]
    later = pipeline.run(files, HEAD, Bright(), revision=2)
    assert later.outputs[0].sop_instance_uid != result.outputs[0].sop_instance_uid


def test_nifti_in_no_dicom_out(result, tmp_path):
    volume, _ = head()
    nibabel.save(nibabel.Nifti1Image(volume.data.astype(np.int16), volume.affine_ras), tmp_path / "flair.nii.gz")
    read = pipeline.read_nifti(tmp_path / "flair.nii.gz")
    from_nifti = pipeline.run(read, HEAD, Bright())
    assert [output.kind for output in from_nifti.outputs] == ["segmentation.nii.gz", "report.json", "report.pdf", "preview.png"]
    findings = json.loads(from_nifti.outputs[1].data)["findings"]
    assert findings["lesion_volume_ml"] == pytest.approx(result.findings.lesion_volume_ml, abs=1e-3)


def broken(path: Path):
    path.write_bytes(b"not a scan")


def unplaced(path: Path):
    image = nibabel.Nifti1Image(np.zeros((8, 8, 8), np.int16), None)
    nibabel.save(image, path)


def several(path: Path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 8, 3), np.int16), np.eye(4)), path)


def flat(path: Path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((1100, 2, 2), np.int16), np.eye(4)), path)


def complex_(path: Path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 8), np.complex64), np.eye(4)), path)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (complex_, "not plain numbers"),
        (broken, "no readable NIfTI"),
        (unplaced, "cannot be known"),
        (several, "no single volume"),
        (flat, "larger than"),
    ],
)
def test_unusable_nifti_is_rejected(tmp_path, write, reason):
    path = tmp_path / "volume.nii"
    write(path)
    with pytest.raises(Rejected, match=reason):
        pipeline.read_nifti(path)
    with pytest.raises(Rejected):
        pipeline.read_nifti(tmp_path / "missing.nii.gz")


def test_a_network_that_sees_no_brain_gives_no_healthy_brain(files):
    class Blind(Bright):
        def run(self, x):
            return super().run(np.zeros_like(x))

    with pytest.raises(Rejected, match="no brain found"):
        pipeline.run(files, HEAD, Blind())


def test_a_tiled_result_says_so(files, result, monkeypatch):
    assert not any(flag.startswith("tiled") for flag in result.quality)
    monkeypatch.setattr(pipeline.predict, "free_memory", lambda: 160 * 192 * 96 * HEAD.card.engine.bytes_per_voxel)
    assert any(flag.startswith("tiled: ") for flag in pipeline.run(files, HEAD, Bright()).quality)


def test_headers_and_volume_say_one_thing_once(files, result):
    codes = [flag.partition(":")[0] for flag in result.quality]
    assert codes.count("thick-slices") == 1
    assert all(re.fullmatch("[a-z-]+", code) for code in codes)


def test_a_volume_without_a_head_is_unusable():
    with pytest.raises(UnusableVolume):
        pipeline.run(Volume(np.zeros((32, 32, 32), np.float32), np.eye(4)), HEAD, Bright())
