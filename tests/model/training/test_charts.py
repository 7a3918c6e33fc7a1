from __future__ import annotations

import re
from dataclasses import replace
from math import isnan

import nibabel
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

from model.training.charts import DICE, METRICS, draw_boxes, new_figure, style
from model.training.layouts import Case
from model.training.paper_figures import REFERENCE, choose_scans, read_scenes
from model.training.results import UnusableResults, read_cases, read_reliability, read_results
from model.training.summary import plan_of, write_summary
from model.training.summary_page import make_page
from model.training.tables import comparisons, trained_on, write_tables
from tests.model.training.synthetic_experiment import make_config, write_experiment

ARMS = ("scratch", "ms+target", "transfer", "no gates")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three patients; one arm never ran, the ablation lacks a seed."""
    folder = tmp_path_factory.mktemp("three")
    write_experiment(folder, 3, arms=("scratch", "transfer", "no gates"), unfinished=("no gates",))
    return folder, write_summary(folder, make_config(ARMS))


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eight")
    write_experiment(folder, 8, arms=("scratch", "transfer"), empty=("P04",), files=False)
    return read_results(folder), read_reliability(folder)


def _section(table, title):
    return table.split(f"## {title}")[1].split("\n## ")[0]


def _pixels_near(path, colour):
    image = np.asarray(Image.open(path).convert("RGB"), float) / 255
    return int((np.abs(image - to_rgb(colour)).max(axis=2) < 0.03).sum())


def test_everything_promised_is_written(finished):
    folder, written = finished
    names = {str(path.relative_to(folder)) for path in written}
    pictures = ("figure-1", "figure-2", "examples", "boxes", "bland-altman", "reliability", "ablations")
    assert names == {"table.md", "summary.pdf", *(f"figures/{name}.png" for name in pictures)}
    assert all(path.is_file() for path in written)


def test_the_summary_is_one_page_of_a4(finished):
    pdf = (finished[0] / "summary.pdf").read_bytes()
    (box,) = re.findall(rb"/MediaBox \[ 0 0 ([0-9.]+) ([0-9.]+) \]", pdf)
    assert [float(side) / 72 * 25.4 for side in box] == pytest.approx((210, 297), abs=0.5)


@pytest.mark.parametrize("name", ["figure-1", "figure-2", "examples"])
def test_found_and_reference_are_drawn(finished, name):
    path = finished[0] / "figures" / f"{name}.png"
    assert _pixels_near(path, REFERENCE) > 200
    assert Image.open(path).width / 150 < 11.7, "must fit on A4 without shrinking the type"


def test_an_arm_that_did_not_run_and_one_that_did_not_end_are_shown_as_such(finished):
    table = (finished[0] / "table.md").read_text()
    arms = _section(table, "Arms")
    assert re.search(r"\| ms\+target \|.*not run", arms)
    assert re.search(r"\| no gates \|.*unfinished: 4 of 8 scan runs", arms)
    assert re.search(r"\| transfer \| 2 \(2–3\) \| 3 \(4\) × 2 \| 0 of 0 \| complete", arms)


def test_below_six_patients_the_table_says_that_nothing_was_tested(finished):
    assert "| transfer − scratch | 3 | 3 of 3 |" in (table := _section((finished[0] / "table.md").read_text(), "Declared comparisons"))
    assert table.count("n < 6: no test") == 2


def test_every_patient_stands_in_the_table_and_the_ablations_have_their_own(finished):
    table = (finished[0] / "table.md").read_text()
    assert all(f"| {patient} |" in _section(table, "Every patient: Dice") for patient in ("P01", "P02", "P03"))
    ablations = _section(table, "Ablations")
    assert "| transfer | 3 |" in ablations
    assert re.search(r"\| no gates \| 3 \|.*; n = 3 \|", ablations)
    assert "n = 1 patients" in _section(table, "Second rater")


def test_nothing_on_the_page_is_cut_off_or_hidden(finished):
    folder, _ = finished
    plan, rows, cases = plan_of(make_config(ARMS)), read_results(folder), read_cases(folder)
    with style():
        page = make_page(folder, plan, read_scenes(cases, rows), rows, read_reliability(folder), len(cases), {"P01": 0.8})
        page.draw_without_rendering()
    texts = [text for text in page.findobj(Text) if text.get_text() and text.get_visible()]
    words = " ".join(text.get_text() for text in texts)
    for said in ("not run", "n < 6: no test", "n = 3 of 3 patients", "two\nraters", "no gates*"):
        assert said in words
    for text in texts:
        box = text.get_window_extent()
        inside = box.x0 > 0 and box.y0 > 0 and box.x1 < page.bbox.x1 and box.y1 < page.bbox.y1
        assert inside or not text.axes, text.get_text()


def test_with_six_patients_or_more_the_declared_comparison_is_tested(eight):
    rows, bins = eight
    (found,) = comparisons(plan_of(make_config(("scratch", "transfer"))), rows)
    assert found.p == found.p_holm == pytest.approx(2 / 2**7)
    table = write_tables(plan_of(make_config(("scratch", "transfer"))), rows, bins, 9, {})
    assert "in one arm only: P04" in _section(table, "Declared comparisons")
    assert re.search(r"\| transfer \|.*\| 2 of 2 \| complete", _section(table, "Arms"))
    assert "ceiling is not known" in table


def test_the_box_plot_holds_every_patients_point_and_n(eight):
    rows, _ = eight
    axes = new_figure(4, 3).subplots()
    draw_boxes(axes, plan_of(make_config(("scratch", "ms+target", "transfer"))), ("scratch", "ms+target", "transfer"), rows, DICE, {})
    points = [np.asarray(collection.get_offsets())[:, 1] for collection in axes.collections]
    assert [len(values) for values in points] == [8, 7]
    assert [text.get_text().split("n = ")[1] for text in axes.get_xticklabels()] == ["8", "0", "7"]
    assert [text.get_text() for text in axes.texts] == ["not run"]
    draw_boxes(
        far := new_figure(4, 3).subplots(), plan_of(make_config(("scratch", "transfer"))), ("scratch", "transfer"), rows, METRICS[4], {}
    )
    assert far.get_ylim()[1] > max(row.figures["hausdorff_mm"] for row in rows if not isnan(row.figures["hausdorff_mm"]))


def test_the_scans_shown_are_chosen_by_the_reference_alone(eight):
    rows, _ = eight
    chosen = choose_scans(rows)
    assert [scan[:3] for scan in chosen] == ["P08", "P05", "P01"]
    turned = [replace(row, figures={**row.figures, "dice": 1 - row.figures["dice"], "found_ml": 0.0}) for row in reversed(rows)]
    assert choose_scans(turned) == chosen


@pytest.mark.parametrize("turn", ["RAS", "LPS", "PIR", "SLA"])
def test_every_orientation_is_shown_with_the_patients_right_at_the_left_and_front_above(tmp_path, eight, turn):
    data, lesion = np.zeros((20, 24, 10), np.float32), np.zeros((20, 24, 10), np.uint8)
    data[2:18, 2:22, 1:9] = 100
    lesion[14:17, 17:21, 4:6] = 1
    codes = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(turn))
    paths = {}
    for name, array in (("flair", data), ("lesion", lesion)):
        paths[name] = tmp_path / f"{name}.nii"
        nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 3.0, 1.0])).as_reoriented(codes), paths[name])
    rows = [replace(eight[0][0], scan="one")]
    (scene,) = read_scenes({"one": Case("one", "P1", "1", paths["flair"], lesion=paths["lesion"])}, rows)
    row, column = np.argwhere(scene.reference).mean(axis=0) / scene.reference.shape
    assert row < 0.4
    assert column < 0.4
    labels = np.asarray(nibabel.load(paths["lesion"]).dataobj, np.uint8)
    assert np.array_equal(scene.cut(labels) == 1, scene.reference)


def test_an_arm_that_learned_from_no_target_scan_says_so(eight):
    config = make_config(("scratch", "transfer"))
    tumours_only = config.schedules["one"].model_copy(update={"mixture": {"tumour": 1.0}})
    arms = {**config.arms, "scratch": config.arms["scratch"].model_copy(update={"stages": ("two",)})}
    plan = plan_of(config.model_copy(update={"schedules": {**config.schedules, "two": tumours_only}, "arms": arms}))
    assert trained_on(plan, eight[0], "scratch") == "0 (0)"
    assert trained_on(plan, eight[0], "transfer") == "7 (7–8)"


def test_without_declared_arms_the_two_figures_take_the_first_and_the_last():
    plan = plan_of(make_config(("ms+target", "source+target"), transfer="", classical=()))
    assert (plan.classical, plan.transfer) == (("ms+target",), "source+target")
    plan = plan_of(make_config(("scratch", "transfer", "source-only"), transfer="", classical=()))
    assert (plan.classical, plan.transfer) == (("scratch", "source-only"), "transfer")


def test_an_experiment_without_any_result_is_refused(finished, tmp_path):
    for name in ("results.csv", "reliability.csv", "cases.json"):
        text = (finished[0] / name).read_text()
        (tmp_path / name).write_text(text if name == "cases.json" else text.splitlines()[0] + "\n")
    with pytest.raises(UnusableResults, match=r"results\.csv: holds no result"):
        write_summary(tmp_path, make_config(ARMS))
