"""Series that come again: transcoded, corrected, with other pixels, and with what no decoder survives."""

from __future__ import annotations

import io
import os
import random
import subprocess
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from service.records import Book, State, open_book, upgrade_book
from service.settings import Settings
from service.store import Store
from tests.running import Running, series_uid
from tests.service.casebook import instance, queue, run
from worker import resends
from worker.child import WorkChild
from worker.compare import Comparison
from worker.frames import Limits


def copies(files, folder: Path, change) -> list[Path]:
    """Other versions of the files: `change` alters each data set, by its number, before it is written."""
    folder.mkdir(exist_ok=True)
    written = []
    for number, path in enumerate(files):
        dataset = pydicom.dcmread(path)
        change(number, dataset)
        written.append(folder / path.name)
        dataset.save_as(written[-1], enforce_file_format=True)
    return written


def transcoded(files, folder: Path, peer) -> list[Path]:
    """Every file in another lossless transfer syntax than its neighbours."""
    by_dcmtk = (["dcmcjpeg"], ["dcmcjpls"], ["dcmconv", "+tb"], ["dcmconv", "+ti"], ["dcmconv", "+td"])
    kinds = (JPEGLSLossless, RLELossless, JPEG2000Lossless, *by_dcmtk)

    def change(number, dataset):
        if (kind := kinds[number % len(kinds)]) not in by_dcmtk:
            dataset.compress(kind, generate_instance_uid=False)

    written = copies(files, folder, change)
    for number, path in enumerate(written):
        if (command := kinds[number % len(kinds)]) in by_dcmtk:
            subprocess.run([peer(command[0]), *command[1:], path, path], check=True, timeout=60)
    assert len({pydicom.dcmread(path, specific_tags=[]).file_meta.TransferSyntaxUID for path in written}) == 7
    return written


def other_pixels(files, folder: Path) -> list[Path]:
    def brighten(_, dataset):
        values = np.frombuffer(dataset.PixelData, dtype="<u2").copy()
        values[: len(values) // 2] += 7
        dataset.PixelData = values.tobytes()

    return copies(files, folder, brighten)


def rename(patient: str):
    def change(_, dataset):
        dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate = patient, f"{patient}^Renée", "19610203"

    return change


def uids(outputs) -> set[str]:
    return {str(pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID) for data in outputs.values() if data[128:132] == b"DICM"}


def wait_compared(service, case, limit_s: float = 60.0) -> None:
    """Until nothing of the case waits to be compared any more."""
    book = Book(service.database)
    try:
        deadline = time.monotonic() + limit_s
        while book.standing(case["id"]).uncompared:
            assert time.monotonic() < deadline, service.last_words()
            time.sleep(0.05)
    finally:
        book.close()


def history(service, case) -> list[str]:
    book = Book(service.database)
    try:
        return [str(line.reason) for line in book.case(case["id"]).history]
    finally:
        book.close()


def test_transcoded_and_other_pixels_ten_times_in_any_order_change_no_result(running, write_phantom, tmp_path, peer):
    files = write_phantom("resent")
    running.push(files)
    case = running.wait_until(series_uid(files), "done")
    before = running.outputs(case)

    same = transcoded(files, tmp_path / "same", peer)
    running.push(same)
    wait_compared(running, case)
    after = running.wait_until(series_uid(files), "done")
    assert after == case, "neither revision nor flags nor times"

    other = other_pixels(files[10:13], tmp_path / "other")
    running.push(other)
    wait_compared(running, case)
    flagged = running.wait_until(series_uid(files), "done")
    assert flagged["quality"] == [*case["quality"], "other-pixels: 3 instances came again with other pixels, the first were used"]

    rng = random.Random(5)
    for _ in range(10):
        running.push(rng.sample([*files, *same, *other], 8))
    wait_compared(running, case)
    assert running.wait_until(series_uid(files), "done") == flagged
    assert running.outputs(flagged) == before


def test_a_correction_in_two_parts_with_a_kill_between_gives_one_revision_under_new_uids(write_head, tiny_release, tmp_path):
    settings = {"quiet_time_s": 1.0, "sweep_s": 0.3, "release": tiny_release, "engine": "onnxruntime-cpu"}
    service = Running(tmp_path / "data", **settings).start()
    try:
        files = write_head("corrected")
        corrected = copies(files, tmp_path / "corrected", rename("P-RIGHT"))
        service.push(files)
        case = service.wait_until(series_uid(files), "done")
        before = service.outputs(case)

        service.child().suspend()  # it compares nothing any more
        service.push(corrected[:8])
        assert service.wait_until(series_uid(files), "done") == case
        service.kill()
        service.start()
        held = service.wait_until(series_uid(files), "held", revision=2)
        assert "patient" in held["reason"]
        service.push(corrected[8:])
        again = service.wait_until(series_uid(files), "done", revision=2)

        after = service.outputs(again)
        assert (again["id"], again["patient_id"], again["instances"]) == (case["id"], "P-RIGHT", len(files))
        assert again["patient_key"] != case["patient_key"]
        assert service.cases(patient_id="P-RIGHT")
        assert not service.cases(patient_id="P-corrected")
        segmentation = pydicom.dcmread(io.BytesIO(after["segmentation"]))
        assert (segmentation.PatientID, str(segmentation.PatientName)) == ("P-RIGHT", "P-RIGHT^Renée")
        assert segmentation.PatientBirthDate == "19610203"
        assert uids(after)
        assert not uids(after) & uids(before)
        assert after["segmentation.nii.gz"] == before["segmentation.nii.gz"], "the same mask"
        first, second = (pydicom.dcmread(io.BytesIO(found["structured-report"])) for found in (before, after))
        (series,) = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
        assert series.SeriesInstanceUID == first.SeriesInstanceUID
        assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
        assert history(service, case).count("corrected attributes: PatientBirthDate, PatientID, PatientName") == 2
        log = service.log.read_text()
        assert "P-RIGHT" not in log
        assert "19610203" not in log
    finally:
        service.stop()


@pytest.fixture
def compared(tmp_path, monkeypatch):
    """A done case of three instances that all came again as `0.dcm` to `2.dcm`; gives what has a real child compare them."""
    settings = Settings(data_dir=tmp_path)
    upgrade_book(settings)
    book = open_book(settings)
    case_id = queue(book)
    run(book, case_id)
    book.note_instances([instance(number + 1, digest=f"{number + 100:064x}", path=f"instances/{number}.dcm") for number in range(3)])

    def go(comparison, limit_s: float = 60.0, tries: Path = tmp_path / "tries") -> list[str]:
        def compare(_, copy: Path, limits: Limits) -> Comparison:
            with tries.open("a") as file:
                file.write(f"{copy.name}\n")
            return comparison(copy.name)

        monkeypatch.setattr(resends, "compare", compare)

        def prepare():
            mine = open_book(settings)
            store = Store(tmp_path)
            return lambda job, say: resends.compare_resends(mine, store, job[1], say, Limits())

        child = WorkChild(prepare)
        try:
            resends.oversee(child, lambda: open_book(settings), case_id, limit_s)
        finally:
            if child._process is not None:
                child._process.kill()
                child._process.join()
        return tries.read_text().split()

    yield go, book, case_id
    book.close()


def test_an_instance_that_kills_its_decoder_is_given_up_after_three_tries(compared):
    go, book, case_id = compared
    tried = go(lambda name: os._exit(11) if name == "1.dcm" else Comparison(resends.Verdict.SAME))
    assert tried.count("1.dcm") == 3
    case = book.case(case_id)
    assert (case.state, case.attempts, case.revision) == (State.DONE, 0, 1)
    assert case.quality[-1] == "unreadable-copy: 1 instance came again and could not be compared, the first was used"
    assert book.uncompared(case_id) == []


def test_an_instance_that_hangs_its_decoder_is_given_up_at_once(compared):
    go, book, case_id = compared
    tried = go(lambda name: time.sleep(600) if name == "1.dcm" else Comparison(resends.Verdict.SAME), limit_s=1.0)
    assert tried.count("1.dcm") == 1
    assert book.uncompared(case_id) == []
    assert "unreadable-copy" in book.case(case_id).quality[-1]


def test_a_child_that_is_killed_once_over_an_instance_costs_it_nothing(compared, tmp_path):
    go, book, case_id = compared
    once = tmp_path / "once"

    def compare(name: str) -> Comparison:
        if name == "1.dcm" and not once.exists():
            once.touch()
            os._exit(9)
        return Comparison(resends.Verdict.SAME)

    assert go(compare).count("1.dcm") == 2
    assert book.uncompared(case_id) == []
    assert book.case(case_id).quality == ("thick slices", "after contrast")


def test_a_disk_that_fails_leaves_the_comparison_to_the_sweep(compared):
    go, book, case_id = compared

    def compare(_: str) -> Comparison:
        raise OSError(5, "Input/output error")

    assert go(compare) == ["0.dcm"]
    assert len(book.uncompared(case_id)) == 3
