"""Three made-up patients at 4 mm, a tiny release and a handful of steps: the whole way from corrected scans to an accepted release."""

from __future__ import annotations

import csv
import json
import shutil

import nibabel
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from model.release import load
from model.training import adapt_command
from model.training.cli import app
from model.training.corrections import KnownPatients, make_tokens, number_corrections
from model.training.layouts import find_cases
from tests.model.conftest import FormulaHead, grid_around

LESIONS = {"Meier": (40.0, -10.0, 55.0), "Huber": (-18.0, -40.0, 50.0), "Moser": (14.0, 10.0, 58.0)}
SHAPE, SPACING = (48, 56, 44), 4.0
CONFIG = {
    "seed": 3,
    "threads": 1,
    "replay_phantoms": [],
    "guard_phantoms": [201],
    "schedule": {
        "steps": 4, "learning_rate": 1e-3, "warm_up": 1, "crop": [64, 64, 64], "checkpoint_every": 2,
        "mixture": {"target": 0.7, "replay": 0.3}, "painting": {"target": {"lesions": 1.0}},
    },
}  # fmt: skip


def _save(data, affine, path):
    nibabel.save(nibabel.Nifti1Image(data, affine), path)


def _write_patient(folder, patient, place, **row):
    head = FormulaHead(lesion_ras=place)
    affine = grid_around(head, np.eye(3), np.full(3, SPACING), SHAPE)
    name = f"{patient}-scan"
    noise = np.random.default_rng(len(patient)).normal(0, 4, SHAPE)
    scan = head.scan(SHAPE, affine)
    _save(np.where(scan.data > 0, scan.data + noise, 0).astype(np.float32), affine, folder / f"{name}.nii.gz")
    _save(head.lesion(SHAPE, affine).astype(np.uint8), affine, folder / f"{name}-lesion.nii.gz")
    return {"patient": patient, "flair": f"{name}.nii.gz", "lesion": f"{name}-lesion.nii.gz", "provenance": "SEG 1.2.3; A. Reader", **row}


def _write_manifest(folder, rows):
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted({key for row in rows for key in row}))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def _run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    return _write_manifest(folder, [_write_patient(folder, patient, place) for patient, place in LESIONS.items()])


@pytest.fixture(scope="module")
def adapted(base, site, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapted")
    (replay := folder / "replay").mkdir()
    _write_manifest(replay, [_write_patient(replay, "Other", (30.0, -30.0, 60.0))])
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    out = folder / "proposal"
    options = ("--release", base.folder, "-o", out, "--config", folder / "config.yaml", "--replay", replay, "--irradiated", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapt_command, "_say", _die_at("fold 2"))
        assert _run("adapt", site, *options).exit_code != 0
    assert not (out / "proposal.json").exists()
    result = _run("adapt", site, *options)
    assert result.exit_code == 0, result.output
    return out, result, (site, *options)


def _die_at(begin):
    def say(message):
        if message.startswith(begin):
            raise KeyboardInterrupt

    return say


def test_an_adaptation_proposes_a_candidate_with_evidence_on_patients_left_out(adapted):
    out, result, _ = adapted
    told = json.loads((out / "proposal.json").read_text())
    site_rows = [row for row in told["rows"] if row["group"] == "site"]
    assert {row["patient"] for row in site_rows} == {"patient-01", "patient-02", "patient-03"}
    assert all({"dice", "lesion_f1", "found_ml"} <= row[when].keys() for row in site_rows for when in ("old", "new"))
    assert [row["group"] for row in told["rows"]].count("phantom") == 1
    assert {path.name for path in (out / "runs").iterdir()} == {"fold-1", "fold-2", "fold-3", "final"}
    assert "n = 3" in result.output
    assert "Verdict" in (out / "evidence.md").read_text()
    assert load(out / "candidate").card.sha256 != told["base"]["sha256"]


def test_no_fold_has_met_whom_it_is_judged_on_neither_as_a_scan_nor_as_a_shape_to_paint(adapted):
    out, _, _ = adapted
    met = [json.loads((out / "runs" / f"fold-{n}" / "trained-on.json").read_text()) for n in (1, 2, 3)]
    scans, shapes = ([set(one[key]) for one in met] for key in ("scans", "shapes"))
    every = {"correction-01", "correction-02", "correction-03"}
    assert sorted(sorted(every - one) for one in scans) == [["correction-01"], ["correction-02"], ["correction-03"]]
    for left_out, painted in zip((every - one for one in scans), shapes, strict=True):
        (name,) = left_out
        assert name.replace("correction", "patient") not in painted
    assert all(painted & {"patient-01", "patient-02", "patient-03"} for painted in shapes)


def test_the_card_tells_where_every_correction_comes_from_and_names_no_patient(adapted, site):
    out, _, _ = adapted
    card = load(out / "candidate").card
    adaptation = card.training["adaptations"][-1]
    assert [entry["provenance"] for entry in adaptation["corrections"]] == ["SEG 1.2.3; A. Reader"] * 3
    assert all(len(entry["mask_sha256"]) == 64 for entry in adaptation["corrections"])
    assert card.training["irradiated_patients"] == 2
    assert any("Measured before adaptation, 0.3.0: off by 3 ml." in said for said in card.limits)
    assert not any("No irradiated" in said for said in (*card.limits, card.summary))
    for written in (out / "candidate" / "card.json", out / "evidence.md", out / "evidence.csv", out / "proposal.json"):
        assert not any(patient in written.read_text() for patient in LESIONS)
    assert all(KnownPatients(card).has(patient) for patient in (*LESIONS, "public/1"))
    assert not any(KnownPatients(card).has(patient) for patient in ("Other", "public/2"))
    with pytest.raises(Exception, match="0 patients to judge on"):
        number_corrections(find_cases("manifest", site), card)


def test_a_killed_adaptation_goes_on_and_another_one_does_not_mix_with_it(adapted):
    _, result, options = adapted
    assert "fold-1: finished before" in result.output
    assert "fold-2: finished before" not in result.output
    refused = _run("adapt", *options, "--steps", 5)
    assert refused.exit_code == 1
    assert "another configuration" in refused.output


def test_accepting_needs_a_name_and_puts_it_into_the_card(adapted, base, tmp_path):
    out, _, _ = adapted
    proposal = tmp_path / "proposal"
    shutil.copytree(out, proposal)
    assert _run("accept", proposal).exit_code == 2
    assert "needs a name" in _run("accept", proposal, "--by", " ").output
    result = _run("accept", proposal, "--by", "Dr. Ada", "--into", tmp_path / "releases", *(_against(out)))
    assert result.exit_code == 0, result.output
    card = load(tmp_path / "releases" / "tiny-0.3.0+site.1").card
    assert card.version == "0.3.0+site.1"
    assert card.training["adaptations"][-1]["accepted"]["by"] == "Dr. Ada"
    assert "accepted already, by Dr. Ada" in _run("accept", proposal, "--by", "Somebody").output


def _against(out):
    passed = json.loads((out / "proposal.json").read_text())["verdict"]["passed"]
    return () if passed else ("--against-the-verdict", "a test")


def test_a_worse_candidate_is_accepted_only_with_a_reason_that_its_card_keeps(adapted, tmp_path):
    out, _, _ = adapted
    proposal = tmp_path / "proposal"
    shutil.copytree(out, proposal)
    told = json.loads((proposal / "proposal.json").read_text())
    told["rows"][0]["old"]["dice"] = 0.9
    told["rows"][0]["new"]["dice"] = 0.7
    (proposal / "proposal.json").write_text(json.dumps(told))
    arguments = ("accept", proposal, "--by", "Dr. Ada", "--into", tmp_path / "releases", "--release-version", "1.0.0")
    refused = _run(*arguments)
    assert refused.exit_code == 1
    assert "WORSE" in refused.output
    assert not (tmp_path / "releases").exists()
    assert _run(*arguments, "--against-the-verdict", "the old masks were wrong").exit_code == 0
    accepted = load(tmp_path / "releases" / "tiny-1.0.0").card.training["adaptations"][-1]["accepted"]
    assert accepted["against_the_verdict"] == "the old masks were wrong"


def test_a_candidate_that_was_changed_after_its_evidence_is_refused(adapted, tmp_path):
    out, _, _ = adapted
    proposal = tmp_path / "proposal"
    shutil.copytree(out, proposal)
    card = proposal / "candidate" / "card.json"
    card.write_text(card.read_text().replace("0.3.0+site.candidate", "9.9.9"))
    assert "not the one the evidence was made with" in _run("accept", proposal, "--by", "Dr. Ada").output


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "1 patient to judge on"),
        ({"lesion": ""}, "no lesion mask"),
        ({"lesion": "../small.nii.gz"}, "the scan has"),
        ({"provenance": "drawn for Meier"}, "names the patient"),
    ],
    ids=["one patient", "unlabelled", "another grid", "provenance with a name"],
)
def test_what_cannot_be_learnt_from_is_refused_by_name(base, tmp_path, change, said):
    (folder := tmp_path / "site").mkdir()
    _save(np.zeros((8, 8, 8), np.uint8), np.eye(4), tmp_path / "small.nii.gz")
    _write_manifest(folder, [_write_patient(folder, "Meier", LESIONS["Meier"], **change)])
    result = _run("adapt", folder, "--release", base.folder, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert said in result.output
    assert "Traceback" not in result.output


def test_a_patient_the_release_knows_is_trained_on_and_never_judged_on(base, tmp_path):
    rows = [_write_patient(tmp_path, patient, place) for patient, place in LESIONS.items()]
    rows[0]["patient"] = "public/1"
    found = number_corrections(find_cases("manifest", _write_manifest(tmp_path, rows)), base.card)
    assert {correction.case.patient: correction.judged for correction in found} == {"public/1": False, "Huber": True, "Moser": True}


def test_a_patient_of_an_earlier_site_is_known_by_a_token_only(base):
    training = {**base.card.training, "adaptations": [{"patients": make_tokens(["Meier"])}]}
    card = base.card.model_copy(update={"training": training})
    assert KnownPatients(card).has("Meier")
    assert not KnownPatients(card).has("Huber")
    assert "Meier" not in card.model_dump_json()
