"""Three made-up patients at 4 mm, a tiny release and a handful of steps: the whole way from corrected scans to an accepted release."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import shutil

import nibabel
import numpy as np
import onnx
import pytest
import torch
import yaml
from typer.testing import CliRunner

from model.release import Card, InputPreparation, load, newest
from model.training import adapt_command
from model.training.card import INTENDED_USE, LIMITS, START_DEFINITION, START_LIMITS
from model.training.cli import app
from model.training.corrections import KnownPatients, make_tokens, number_corrections
from model.training.export import architecture, run_onnxruntime
from model.training.layouts import find_cases
from model.training.network import AttentionVNet, NetworkConfig
from model.training.restore import NotRestored, empty_network, match_layers, read_weights, restore_network, write_weights
from model.training.verdict import Margins, Row, judge_rows
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
def base(tmp_path_factory):
    """The shipped graph around a tiny network: the exporter alone would take as long as all the rest."""
    torch.manual_seed(1)
    shipped = newest()
    network = AttentionVNet(NetworkConfig(widths=(4, 4, 4, 4, 8), norm=shipped.card.architecture.norm)).eval()
    model = onnx.load(shipped.weights)
    arrays = {}
    for use in match_layers(shipped.weights, model.graph, empty_network(shipped.card.architecture)):
        value = network.state_dict()[use.weight].numpy()
        arrays[use.array] = value.reshape(-1, 1, 1, 1) if use.node.op_type == "PRelu" else value
    del model.graph.initializer[:], model.graph.value_info[:]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in arrays.items())
    weights = model.SerializeToString(deterministic=True)
    folder = tmp_path_factory.mktemp("base") / "tiny-0.3.0"
    folder.mkdir()
    (folder / "weights.onnx").write_bytes(weights)
    card = Card(
        name="tiny", version="0.3.0", summary="Untrained.", input=InputPreparation(spacing_mm=SPACING, shapes=((64, 64, 64),)),
        architecture=architecture(network), weights="weights.onnx", sha256=hashlib.sha256(weights).hexdigest(),
        lesion=START_DEFINITION, engine=START_LIMITS, intended_use=INTENDED_USE, limits=(*LIMITS, "off by 3 ml."), figures={"old": 1},
        training={"irradiated_patients": 0, "patients": ["public/1"], "kept_aside": ["public/2"]},
    )  # fmt: skip
    (folder / "card.json").write_text(card.model_dump_json())
    return load(folder)


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


def test_a_release_comes_back_from_its_file_weight_for_weight(base, tmp_path):
    network = restore_network(base)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    write_weights(base, network, tmp_path / "weights.onnx")
    back = read_weights(tmp_path / "weights.onnx", empty_network(base.card.architecture))
    assert all(torch.equal(back[name], value) for name, value in network.state_dict().items())
    x = np.random.default_rng(0).normal(size=(1, 1, 32, 48, 32)).astype(np.float32)
    with torch.no_grad():
        assert np.allclose(network.eval()(torch.from_numpy(x)).numpy(), run_onnxruntime(tmp_path / "weights.onnx", x), atol=1e-4)


def test_the_same_weights_give_the_same_file_and_another_architecture_is_found_out(base, tmp_path):
    shipped = newest()
    assert write_weights(shipped, restore_network(shipped), tmp_path / "again.onnx") == shipped.card.sha256
    with pytest.raises(NotRestored, match="has shape"):
        read_weights(base.weights, empty_network(base.card.architecture.model_copy(update={"widths": (4, 4, 4, 4, 6)})))
    with pytest.raises(NotRestored, match="layers"):
        read_weights(base.weights, empty_network(base.card.architecture.model_copy(update={"gates": False})))


def test_arrays_that_the_exporter_stored_once_are_told_apart_again(base, tmp_path):
    model = onnx.load(base.weights)
    slopes = [node for node in model.graph.node if node.op_type == "PRelu"]
    slopes[1].input[1] = slopes[0].input[1]
    onnx.save(model, tmp_path / "weights.onnx")
    shared = dataclasses.replace(base, folder=tmp_path)
    network = empty_network(base.card.architecture)
    network.load_state_dict(read_weights(shared.weights, network))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    write_weights(shared, network, tmp_path / "apart.onnx")
    back = read_weights(tmp_path / "apart.onnx", network)
    assert all(torch.equal(back[name], value) for name, value in network.state_dict().items())


def test_weights_kept_in_half_precision_are_read_and_written_in_it(base, tmp_path):
    model = onnx.load(base.weights)
    kernel = next(node for node in model.graph.node if node.op_type == "Conv").input[1]
    stored = next(array for array in model.graph.initializer if array.name == kernel)
    stored.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(stored).astype(np.float16), "half"))
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["half"], [kernel], to=onnx.TensorProto.FLOAT))
    onnx.save(model, tmp_path / "weights.onnx")
    halved = dataclasses.replace(base, folder=tmp_path)
    network = restore_network(halved)
    assert torch.equal(network.first.layers[0][0].weight, network.first.layers[0][0].weight.half().float())
    write_weights(halved, network, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "weights.onnx").read_bytes()


def test_a_release_that_averages_networks_is_not_trained_on(base):
    class OfThree:
        def model_dump(self):
            return {**base.card.architecture.model_dump(), "members": 3}

    with pytest.raises(NotRestored, match="averages 3 networks"):
        empty_network(OfThree())


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


def _row(patient, old, new, group="site", truth_ml=5.0):
    return Row(group, patient, patient, {"dice": old, "truth_ml": truth_ml, "found_ml": 0.0}, {"dice": new, "found_ml": new or 0.0})


@pytest.mark.parametrize(
    ("rows", "passed"),
    [
        ([_row("a", 0.7, 0.69), _row("b", 0.6, 0.51), _row("c", 0.5, 0.6)], True),
        ([_row("a", 0.7, 0.67), _row("b", 0.6, 0.57), _row("c", 0.5, 0.6)], False),
        ([_row("a", 0.7, 0.9), _row("b", 0.6, 0.9), _row("c", 0.5, 0.39)], False),
        ([_row("a", 0.7, 0.9), _row("p", 0.9, 0.7, "phantom")], False),
        ([_row("a", 0.7, 0.9), _row("healthy", None, 1.5, truth_ml=0.0)], False),
        ([], False),
    ],
    ids=[
        "within the margins",
        "the median lost too much",
        "one patient lost too much",
        "phantoms forgotten",
        "false alarms",
        "no evidence",
    ],
)
def test_the_verdict_holds_the_margin_for_the_median_and_for_every_patient(rows, passed):
    verdict = judge_rows(rows, Margins())
    assert verdict.passed is passed
    assert all("n = " in sentence for sentence in verdict.sentences)
