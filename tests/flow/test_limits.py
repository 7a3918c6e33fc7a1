"""Limits that an installation chose hold for the worker too: what admission takes by them is not refused later, and the other way round."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from model.volume import Volume
from service.errors import Rejected
from service.intake.handover import Source
from service.records import State, Verdict
from service.settings import Settings
from tests.service.house import House
from tests.tiny import SMALL
from tests.worker.test_pipeline import HEAD, Bright
from worker import encode
from worker.compare import compare
from worker.frames import Limits
from worker.phantom import write_series
from worker.pipeline import read_nifti
from worker.scans import find_scans, read_case
from worker.tasks import inference

CARD = HEAD.card.model_copy(update={"input": SMALL})
VALUES = np.random.default_rng(5).integers(0, 3000, (16, 16, 530)).astype(np.uint16)


def after_work_on(files, folder, monkeypatch, **settings):
    """The case of a series that was taken in and worked on."""
    monkeypatch.setattr(inference, "open_engine", lambda *_, **__: Bright())
    monkeypatch.setattr(encode, "PLAIN_ENCODERS", (encode.nifti.encode,))
    house = House(folder, **settings)
    for path in files:
        house.intake.receive(path.read_bytes(), Source("a", "SCANNER"))
    house.intake.close_source("a", clean=True)
    house.wait(31.0)
    (case,) = house.cases
    assert case.state is State.QUEUED, case.reason
    inference.Desk(house.settings, SimpleNamespace(card=CARD), None, "test:1:").infer(case.id)
    found = house.case
    house.book.close()
    return found


def test_more_slices_than_usual_reach_the_network_where_the_settings_take_them(tmp_path, monkeypatch):
    many = write_series(Volume(VALUES, np.diag([12.0, 12.0, 0.4, 1.0])), tmp_path / "series", enhanced=True)
    case = after_work_on(many, tmp_path / "data", monkeypatch, maximum_slices=600)
    assert (case.state, case.reason) == (State.DONE, None)


def test_a_decoded_series_is_refused_from_the_size_that_the_settings_name(tmp_path, monkeypatch):
    series = write_series(Volume(VALUES[:, :, :20], np.diag([12.0, 12.0, 10.0, 1.0])), tmp_path / "series")
    case = after_work_on(series, tmp_path / "data", monkeypatch, maximum_series_bytes=20 * 512 - 1)
    assert (case.state, case.reason) == (State.REJECTED, "0 MiB decoded, at most 0 MiB are taken")


def test_comparisons_and_corrections_get_the_limits_of_the_settings(tmp_path, monkeypatch):
    house, given = House(tmp_path, maximum_rows=2000, minimum_slices=2), []
    desk = inference.Desk(house.settings, SimpleNamespace(card=CARD), None, "test:1:")
    for name in ("compare_resends", "take_corrections"):
        monkeypatch.setattr(inference, name, lambda *told: given.append(told[-1]))
    desk.work((inference.COMPARE, "case"), lambda _: None)
    desk.work((inference.CORRECT, "case"), lambda _: None)
    house.book.close()
    assert given == [Limits(rows=2000, minimum_slices=2)] * 2


def test_what_is_read_without_a_service_goes_by_them(tmp_path):
    limits = Limits.from_settings(
        Settings(data_dir=tmp_path, maximum_slices=10, maximum_columns=20, minimum_slices=9, maximum_series_bytes=5)
    )
    assert limits == Limits(slices=10, columns=20, minimum_slices=9, decoded_bytes=5)
    nibabel.save(nibabel.Nifti1Image(VALUES[:, :, :11], np.eye(4)), tmp_path / "head.nii.gz")
    with pytest.raises(Rejected, match="larger than 20 x 1024 x 10 voxels"):
        read_nifti(tmp_path / "head.nii.gz", limits)
    series = write_series(Volume(VALUES[:, :, :8], np.eye(4)), tmp_path / "series")
    (one, other) = find_scans(tmp_path)
    for case in (one, other):
        with pytest.raises(Rejected, match=r"larger than|only 8 slices, at least 9"):
            read_case(case, lambda _: (series, ()), limits)
    assert compare(series[0], series[0], limits).verdict is Verdict.UNREADABLE
    assert compare(series[0], series[0]).verdict is Verdict.SAME
