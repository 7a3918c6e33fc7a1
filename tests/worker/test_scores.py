"""A release measured on folders of scans, through the served path."""

from __future__ import annotations

import dataclasses
import json

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from model.engine import open_engine
from service.__main__ import APP
from tests.tiny import write_release
from worker import pipeline
from worker.phantom import write_series
from worker.scans import Scan
from worker.scores import Figures, Measured, as_markdown, serve


def save(volume, data, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.asarray(data), volume.affine_ras), path)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("release") / "tiny", version="1.0.0")


@pytest.fixture(scope="module")
def engine(release):
    return open_engine(release, "openvino-cpu", "f32")


@pytest.fixture(scope="module")
def plain(phantom, release, engine):
    """The phantom that nobody said anything about, its figures, and what was found in it."""
    scan = Scan(phantom.flair, (), None, None, None)
    return scan, *serve(scan, release, engine)


def test_it_is_what_the_service_finds(phantom, plain, release, engine):
    _, figures, mask = plain
    served = pipeline.run(phantom.flair, release, engine)
    assert (figures.lesion_ml, figures.tumour_like_ml, figures.brain_ml) == (
        round(served.findings.lesion_volume_ml, 3),
        round(served.findings.tumour_like_volume_ml, 3),
        round(served.findings.brain_volume_ml, 1),
    )
    assert figures.flags == served.quality
    assert figures.lesion_ml == pytest.approx(mask.sum() * phantom.flair.voxel_ml, abs=1e-3) and figures.lesion_ml > 0
    assert figures.seconds > 0 and figures.dice is figures.true_ml is figures.tumour_dice is None


def test_scores_are_against_what_is_known_and_only_there(plain, release, engine):
    scan, figures, found = plain
    true_ml = figures.lesion_ml
    assert serve(dataclasses.replace(scan, lesion=found), release, engine)[0].dice == 1.0
    half = np.zeros(found.shape, bool)
    half[: found.shape[0] // 2] = True
    unknown = dataclasses.replace(scan, lesion=found & half, ignore=~half)
    judged, _ = serve(unknown, release, engine)
    assert judged.dice == judged.lesion_f1 == 1.0 and judged.true_ml < true_ml == judged.lesion_ml
    assert serve(dataclasses.replace(unknown, ignore=None), release, engine)[0].dice < 1.0


def test_how_much_of_a_tumour_is_called_lesion(plain, release, engine):
    scan, _, found = plain
    tumour = found.copy()
    tumour[np.nonzero(~found & (np.asarray(scan.volume.data) > 0))[0][0]] = True  # a slice more
    judged, _ = serve(dataclasses.replace(scan, tumour=tumour), release, engine)
    assert judged.tumour_called_lesion_percent == pytest.approx(100 * found.sum() / tumour.sum(), abs=0.01) and judged.tumour_dice == 0.0
    empty, _ = serve(dataclasses.replace(scan, lesion=~(found | True), tumour=~(found | True)), release, engine)
    assert (empty.dice, empty.true_ml, empty.tumour_called_lesion_percent) == (0.0, 0.0, None)  # all that was found is false


def test_every_scan_of_several_folders_is_a_row_and_a_refused_one_says_why(phantom, release, tmp_path):
    save(phantom.flair, phantom.flair.data, tmp_path / "one" / "p1" / "p1_flair.nii.gz")
    save(phantom.flair, np.asarray(phantom.lesions.data, np.uint8), tmp_path / "one" / "p1" / "p1_seg.nii.gz")
    write_series(phantom.flair, tmp_path / "two" / "series")
    save(phantom.flair, phantom.flair.data[:2], tmp_path / "two" / "cut.nii")
    out = [tmp_path / name for name in ("out.json", "out.md")]
    asked = (tmp_path / "one", tmp_path / "two", "--release", release.folder, "--json", out[0], "--markdown", out[1])
    said = CliRunner().invoke(APP, ["releases", "measure", *map(str, asked)])
    assert said.exit_code == 0, said.output
    made = json.loads(out[0].read_text())
    rows = {row["scan"]: row for row in made["scans"]}
    assert made["release"] == "tiny 1.0.0" and set(rows) == {"one/p1/p1_flair.nii.gz", "two/cut.nii", "two/series"}
    tumour, series, cut = rows["one/p1/p1_flair.nii.gz"]["figures"], rows["two/series"]["figures"], rows["two/cut.nii"]
    assert 0 < tumour["tumour_called_lesion_percent"] <= 100 and tumour["dice"] is None
    assert series["lesion_ml"] == pytest.approx(tumour["lesion_ml"], rel=0.05) and "thick-slices" in " ".join(series["flags"])
    assert cut["figures"] is None and cut["problem"]
    assert f"| two/cut.nii |{'  |' * 9} refused: {cut['problem']} |" in out[1].read_text()
    assert "tiny 1.0.0 on 3 scans" in said.output and "1 refused" in said.output


def test_the_mean_is_over_patients_and_says_of_how_many():
    def row(patient, dice):
        return Measured(f"{patient} {dice}", patient, Figures(1.0, 0.0, 1200.0, 1.0, (), true_ml=1.0, dice=dice, lesion_f1=dice))

    last = as_markdown([row("a", 0.2), row("a", 0.4), row("b", 0.9), Measured("c", "c", problem="no\nhead | none")], "T").splitlines()[-2:]
    assert "refused: no; head \\| none" in last[0]
    assert last[1].startswith("| mean over n patients | 0.600 (n = 2) | 0.600 (n = 2) |  |")
