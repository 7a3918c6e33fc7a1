"""Making a release: export every fold and the final network, choose the lesion definition, measure, write the card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from model.release import Calibration, Card, Contrast, LesionDefinition
from model.training import evidence
from model.training.candidates import Ensemble, choose_network, choose_storage
from model.training.card import LIMITS, START_DEFINITION, describe_training, measure_limits, provisional_card, start_card
from model.training.configuration import Config
from model.training.definition import choose_definition
from model.training.evaluate import Served
from model.training.evidence import Say
from model.training.export import Network, check_parity, rewrite_card, write_release
from model.training.fit import load_network
from model.training.release_tables import write_evidence


def make_release(
    config: Config,
    final: Path,
    folds: dict[str, Path],
    out: Path,
    version: str,
    command: str,
    pictures: Path | None,
    say: Say,
    ensemble: Ensemble = Ensemble.ONE,
) -> dict[str, Any]:
    """Write `out` (card, weights and evidence); returns the card's figures.

    Parameters
    ----------
    final : folder of the run on all target patients
    folds : left-out patient -> folder of the run without that patient
    ensemble : tried beside the final network alone, and shipped where it does better
    """
    plain: dict[str, list[Served]] = {}
    inside: dict[str, list[Served]] = {}
    for patient, folder in folds.items():
        fold = provisional(config, folder)
        plain[patient], inside[patient] = evidence.serve_left_out(config, fold, patient, say)
    both = {patient: [*plain[patient], *inside[patient]] for patient in folds}
    nested = evidence.nested_definitions(both, START_DEFINITION)
    if pictures is not None:
        for patient, group in both.items():
            for served in group:
                evidence.draw_served(served, nested[patient], pictures)
    chosen = choose_definition([s for group in both.values() for s in group], START_DEFINITION)
    figures: dict[str, Any] = {
        "command": command,
        "engine": "openvino-cpu f32, served path",
        "leave_one_patient_out": evidence.score_folds(plain, nested),
        "leave_one_patient_out_in_synthetic_head": evidence.score_folds(inside, nested),
    }
    say(evidence.summary_line(figures["leave_one_patient_out"]))
    calibration, figures["calibration"] = evidence.measure_calibration(plain, nested)
    known = {"calibration": calibration.model_dump(), "contrast": _dumped(evidence.learn_contrast(config, say))}
    card = {**start_card(config.input, chosen, version), **known, "training": json.loads((final / "described.json").read_text())}
    network = _choose(config, final, folds, provisional_card(load_network(final / "final.pt"), config.input), chosen, ensemble, figures)
    say(f"weights in {figures['storage']['weights']}: {figures['storage']['reason']}")
    write_release(network, out, card)
    figures["parity"] = check_parity(network, out / "weights.onnx")
    limits, measured = measure_limits(out)
    figures["engine_measured"] = measured
    figures |= evidence.measure_kept_aside(config, out, pictures, say)
    said = (*LIMITS, *measured_limits(figures), *calibration_limits(calibration))
    rewrite_card(out, engine=limits, figures=figures, summary=_summary(figures), limits=said)
    write_evidence(figures, out)
    return figures


def _choose(
    config: Config, final: Path, folds: dict[str, Path], card: Card, chosen: LesionDefinition, ensemble: Ensemble, figures: dict[str, Any]
) -> Network:
    """The network that ships, one or several, in float16 where that costs nothing; why goes into `figures`."""
    tried = card.model_copy(update={"lesion": chosen})
    judges = evidence.judges_of_networks(config) if ensemble is not Ensemble.ONE else []
    network, figures["ensemble"] = choose_network(ensemble, final, list(folds.values()), tried, judges)
    network, figures["storage"] = choose_storage(network, tried, evidence.judges_of_storage(config))
    return network


def _dumped(contrast: Contrast | None) -> dict[str, Any] | None:
    return None if contrast is None else contrast.model_dump()


def calibration_limits(calibration: Calibration) -> tuple[str, ...]:
    """What the calibration forbids."""
    if calibration.acceptable:
        return ()
    off = calibration.worst_volume_error_ml
    return (
        f"The summed lesion probability is no volume: off by {off:+.1f} ml on a left-out patient (n = {calibration.patients} patients).",
    )


def measured_limits(figures: dict[str, Any]) -> tuple[str, ...]:
    """What the figures forbid, in plain sentences: the worst cases, not the means."""
    scans = {name: row for name, row in figures["leave_one_patient_out"]["scans"].items() if row["dice"] is not None}
    worst = min(scans, key=lambda name: scans[name]["dice"])
    row = scans[worst]
    volumes = f"{row['found_ml']:.1f} ml found of {row['truth_ml']:.1f} ml"
    said = [f"Worst left-out scan: {worst}, Dice {row['dice']:.2f}, {volumes}, precision {row['precision']:.2f}."]
    tumours = {name: row for name, row in figures["kept_aside"].items() if "tumour_dice" in row}
    if tumours:
        called = max(tumours, key=lambda name: tumours[name]["tumour_called_lesion_percent"])
        missed = min(tumours, key=lambda name: tumours[name]["tumour_dice"])
        percent, lowest = tumours[called]["tumour_called_lesion_percent"], tumours[missed]["tumour_dice"]
        said.append(
            f"Of an unseen tumour up to {percent:.0f} % was called white-matter lesion ({called}); worst whole-tumour Dice {lowest:.2f} "
            f"({missed}; n = {len(tumours)} volumes of 2 patients, half of them inside a synthetic head)."
        )
    phantoms = {name: row["dice"] for name, row in figures["phantoms"].items()}
    lowest_phantom = min(phantoms, key=lambda name: phantoms[name])
    said.append(
        f"Unseen phantoms: mean Dice {sum(phantoms.values()) / len(phantoms):.2f} (n = {len(phantoms)}), "
        f"worst {phantoms[lowest_phantom]:.2f} ({lowest_phantom})."
    )
    loose = [name for name, row in figures["kept_aside"].items() if row["brain_dice"] is None]
    if loose:
        said.append(f"The reference brain mask of {', '.join(loose)} holds the head (over 2 l): no brain was compared with it.")
    return tuple(said)


def provisional(config: Config, folder: Path) -> Path:
    """A run's weights as a release folder inside it, good enough to serve from."""
    target = folder / "release"
    network = load_network(folder / "final.pt")
    write_release(network, target, start_card(config.input))
    return target


def _summary(figures: dict[str, Any]) -> str:
    left_out = figures["leave_one_patient_out"]
    mean = left_out["mean_over_patients"]
    return (
        "White-matter hyper-intensity on FLAIR, 3D Attention V-Net, trained on public data. "
        f"Leaving one patient out: mean Dice {mean['dice']:.2f}, lesion F1 {mean['lesion_f1']:.2f} "
        f"(n = {left_out['n_patients']} patients, {left_out['n_scans']} scans). No irradiated patient in training or evaluation."
    )


__all__ = ["describe_training", "make_release", "provisional"]
