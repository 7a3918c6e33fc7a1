"""A series that is pushed comes back as a segmentation and reports, whatever the order and however often it is sent."""

from __future__ import annotations

import gzip
import io
import json
import random
import threading

import nibabel
import numpy as np
import pydicom

from tests.running import series_uid

KINDS = {
    "segmentation",
    "structured-report",
    "rtstruct",
    "resampled.zip",
    "report.dcm",
    "preview.dcm",
    "segmentation.nii.gz",
    "report.json",
    "report.pdf",
    "preview.png",
}


def mask_of(data):
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(data))
    return np.asarray(image.dataobj), image.affine


def test_every_result_comes_back_and_fits_the_head(running, write_phantom, phantom):
    files = write_phantom("main-way")
    running.push(files)
    case = running.wait_until(series_uid(files), "done")
    assert set(case["outputs"]) == KINDS
    assert case["revision"] == 1
    assert case["instances"] == len(files)
    assert case["primary"] is True
    assert case["findings"]["lesion_count"] > 0
    outputs = running.outputs(case)

    segmentation = pydicom.dcmread(io.BytesIO(outputs["segmentation"]))
    sent = {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in files}
    assert {str(item.ReferencedSOPInstanceUID) for item in segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence} == sent
    assert outputs["report.pdf"].startswith(b"%PDF-")
    assert outputs["preview.png"].startswith(b"\x89PNG")
    assert json.loads(outputs["report.json"])

    labels, affine = mask_of(outputs["segmentation.nii.gz"])
    step = np.linalg.inv(phantom.lesions.affine_ras) @ affine
    truth = phantom.lesions.data if step[2, 2] > 0 else phantom.lesions.data[:, :, ::-1]
    found = labels == 1
    dice = 2 * float((found & (truth > 0)).sum()) / float(found.sum() + (truth > 0).sum())
    assert dice > 0.5


def test_ten_pushes_in_any_order_give_one_case_and_one_result_set(running, write_phantom):
    files = write_phantom("ten-times", repeat=(3, 17))
    rng = random.Random(7)
    orders = [rng.sample(files, len(files)) for _ in range(10)]
    threads = [threading.Thread(target=lambda part=orders[n::3]: [running.push(one) for one in part]) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    case = running.wait_until(series_uid(files), "done")
    first = running.outputs(case)
    running.push(files[::-1])
    again = running.wait_until(series_uid(files), "done")
    assert again["id"] == case["id"]
    assert again["revision"] == 1
    assert again["stages"] == case["stages"], "it ran again"
    assert running.outputs(again) == first


def test_a_gap_is_held_and_the_late_slice_makes_it_run(running, write_phantom):
    files = write_phantom("gap")
    running.push(files[:20] + files[21:])
    case = running.wait_until(series_uid(files), "held")
    assert "gap" in case["reason"]
    assert case["outputs"] == {}
    running.push(files[20:21])
    case = running.wait_until(series_uid(files), "done")
    assert case["instances"] == len(files)
    assert case["reason"] is None


def test_a_slice_after_the_results_makes_one_revision(running, write_phantom):
    files = write_phantom("late")
    running.push(files[:-2])
    first = running.wait_until(series_uid(files), "done")
    before = running.outputs(first)
    running.push(files[-2:])
    second = running.wait_until(series_uid(files), "done", revision=2)
    assert second["id"] == first["id"]
    assert second["instances"] == len(files)
    after = running.outputs(second)
    assert (
        pydicom.dcmread(io.BytesIO(after["segmentation"])).SOPInstanceUID
        != pydicom.dcmread(io.BytesIO(before["segmentation"])).SOPInstanceUID
    )


def test_what_is_no_flair_is_refused_with_its_reason(running, write_phantom):
    files = write_phantom("t1", description="T1 MPRAGE", headers={"InversionTime": "900", "EchoTime": "3", "RepetitionTime": "2300"})
    running.push(files)
    case = running.wait_until(series_uid(files), "rejected")
    assert case["reason"]
    assert case["outputs"] == {}
