"""Two releases side by side on a folder, and one against its own card."""

from __future__ import annotations

import dataclasses
import json
import shutil

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from model.engine import open_engine
from service.__main__ import APP
from service.errors import Rejected
from tests.tiny import write_release
from worker.phantom import write_series
from worker.pipeline import read_nifti
from worker.releases import check_phantom, compare
from worker.scans import find_scans


def save(volume, data, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.asarray(data), volume.affine_ras), path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("releases")
    return write_release(folder / "a", version="1.0.0"), write_release(folder / "b", version="2.0.0", gain=2.0)


@pytest.fixture(scope="module")
def folder(phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    save(phantom.flair, phantom.flair.data, folder / "p1" / "p1_FLAIR.nii.gz")
    save(phantom.lesions, phantom.lesions.data, folder / "p1" / "p1_MASK.nii.gz")
    write_series(phantom.flair, folder / "p2")
    (folder / "notes.txt").write_text("not a scan")
    return folder


def test_what_another_release_would_change_is_tabled(folder, pair, tmp_path):
    shutil.copytree(folder, tmp_path / "cases")
    volume = read_nifti(folder / "p1" / "p1_FLAIR.nii.gz")
    save(volume, volume.data[:2], tmp_path / "cases" / "cut.nii")
    said = CliRunner().invoke(
        APP,
        ["releases", "compare", str(pair[0].folder), str(pair[1].folder), str(tmp_path / "cases"), "--json", str(tmp_path / "out.json")],
        env={"COLUMNS": "200"},
    )
    assert said.exit_code == 1, said.output  # one case could not be served
    found = {row["case"]: row for row in json.loads((tmp_path / "out.json").read_text())["cases"]}
    known, series, cut = found["p1/p1_FLAIR.nii.gz"], found["p2"], found["cut.nii"]
    assert known["first"]["lesion_ml"] == pytest.approx(series["first"]["lesion_ml"], rel=0.05)
    assert known["first"]["lesion_ml"] > 0 and 0 < known["first"]["dice"] <= 1
    assert series["first"]["dice"] is None
    assert known["agreement"] == 1.0 or known["first"]["lesion_ml"] != known["second"]["lesion_ml"]
    assert cut["problem"] and cut["first"] is None
    assert "mean, n = 1 with a mask" in said.output and "Dice of the two" in said.output


def test_a_mask_on_another_grid_is_refused_by_name(folder, pair, tmp_path):
    shutil.copytree(folder / "p1", tmp_path / "p1")
    volume = read_nifti(folder / "p1" / "p1_FLAIR.nii.gz")
    save(volume, volume.data[1:], tmp_path / "p1" / "p1_mask.nii.gz")
    (tmp_path / "p1" / "p1_MASK.nii.gz").unlink()
    engine = open_engine(pair[0], "openvino-cpu", "f32")
    (row,) = compare(find_scans(tmp_path / "p1"), pair, (engine, engine), lambda path: ([path], ()))
    assert "p1_mask.nii.gz: shape (159, 200, 40), the scan has (160, 200, 40)" in row.problem


def test_a_release_that_no_longer_finds_what_its_card_says_is_told(pair):
    engine = open_engine(pair[0], "openvino-cpu", "f32")
    found, said = check_phantom(pair[0], engine)
    assert said is None

    def with_record(lesion_ml):
        card = pair[0].card.model_copy(update={"figures": {"phantoms": {"phantom-3 (demo)": {"lesion_ml": lesion_ml}}}})
        return dataclasses.replace(pair[0], card=card)

    with pytest.raises(Rejected, match="the card says"):
        check_phantom(with_record(1.1 * found + 0.1), engine)
