"""What a release is measured to do: leaving one patient out, and on scans kept aside. Everything through the served path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model import familiar
from model.engine import Engine, open_engine
from model.postprocess import TUMOUR_LIKE
from model.preprocess import prepare
from model.release import Calibration, Card, Contrast, LesionDefinition, Release, load
from model.training.assemble import held_out_cases, read_phantom, training_cases
from model.training.calibrate import judge, measure_scan, reliability
from model.training.configuration import Config
from model.training.definition import choose_definition
from model.training.evaluate import Served, other_figures, score_lesions, serve
from model.training.examples import Truth, phantom_truth, read_truth, with_head
from model.training.figures import draw_overlay
from model.training.layouts import read_scan

Say = Callable[[str], None]
HEAD_SEED = 4242
UNSEEN_PHANTOMS = (200, 201, 202, 203)
DEMO_PHANTOMS = range(10)
MEANS = ("dice", "lesion_f1", "sensitivity", "precision", "hausdorff95_mm")


def open_reference(folder: Path) -> tuple[Release, Engine]:
    """A release folder in float32, the precision every figure is measured in."""
    release = load(folder)
    return release, open_engine(release, "openvino-cpu", "f32")


def serve_left_out(config: Config, folder: Path, patient: str, say: Say) -> tuple[list[Served], list[Served]]:
    """The scans of one left-out patient as they are, and inside a synthetic head, by the fold's own network."""
    release, engine = open_reference(folder)
    plain: list[Served] = []
    inside: list[Served] = []
    for truth in target_truths(config, patient):
        say(f"{patient}: {truth.name}")
        plain.append(serve(truth, engine, release.card))
        if not inside:  # one visit is enough to see what a head around the brain changes
            inside.append(serve(with_head(truth, HEAD_SEED), engine, release.card))
    return plain, inside


def target_truths(config: Config, patient: str) -> Iterator[Truth]:
    """All scans of one target patient."""
    for source in config.data.sources:
        if source.kind == "target":
            for case in training_cases(config, source):
                if case.patient == patient:
                    yield read_truth(case)


def nested_definitions(found: dict[str, list[Served]], start: LesionDefinition) -> dict[str, LesionDefinition]:
    """For every patient the lesion definition chosen on the other patients' predictions."""
    return {
        patient: choose_definition([s for other, group in found.items() if other != patient for s in group], start) for patient in found
    }


def score_folds(found: dict[str, list[Served]], definitions: dict[str, LesionDefinition]) -> dict[str, Any]:
    """Every scan's scores, every patient's mean, and the mean over patients."""
    scans: dict[str, Any] = {}
    patients: dict[str, dict[str, float | None]] = {}
    for patient, group in found.items():
        definition = definitions[patient]
        rows = []
        for served in group:
            scores = score_lesions(served, definition)
            others = {**other_figures(served, definition), **_lost(served, definition)}
            scans[served.truth.name] = {**scores.as_dict(), **others}
            rows.append([getattr(scores, name) for name in MEANS])
        patients[patient] = {name: _mean(column) for name, column in zip(MEANS, zip(*rows, strict=True), strict=True)}
    return {
        "n_patients": len(found),
        "n_scans": len(scans),
        "mean_over_patients": {name: _mean([p[name] for p in patients.values()]) for name in MEANS},
        "patients": patients,
        "scans": scans,
        "chosen_on_the_others": {patient: d.model_dump() for patient, d in definitions.items()},
    }


def _mean(values: Iterable[float | None]) -> float | None:
    """Of what is a number: a scan without lesions in which none is found has no Dice."""
    known = [value for value in values if value is not None and not np.isnan(value)]
    return round(float(np.mean(known)), 4) if known else None


def _lost(served: Served, definition: LesionDefinition) -> dict[str, float]:
    """How much of the true lesion went to the tumour-like class."""
    if served.truth.lesion is None or not served.truth.lesion.any():
        return {}
    taken = (served.labels(definition) == TUMOUR_LIKE) & served.truth.lesion
    return {"lesion_called_tumour_percent": round(100.0 * float(taken.sum()) / float(served.truth.lesion.sum()), 2)}


def measure_calibration(found: dict[str, list[Served]], definitions: dict[str, LesionDefinition]) -> tuple[Calibration, dict[str, Any]]:
    """Every left-out scan under the calibration of the other patients, and what the card says of it."""
    scans: dict[str, dict[str, Any]] = {
        served.truth.name: {
            "patient": patient,
            **measure_scan(served, definitions[patient]),
            "bins": reliability(served, definitions[patient]),
        }
        for patient, group in found.items()
        for served in group
    }
    return judge(scans, {name: row["patient"] for name, row in scans.items()}), scans


def learn_contrast(config: Config, say: Say) -> Contrast | None:
    """What the training scans look like to the network; nothing where there are too few patients to tell.

    Only what came from a scanner counts. Phantoms lie so far off that with them among the usual a T1 or an EPI passes too, and a synthetic
    head has the contrast of nobody's scanner.
    """
    profiles: dict[str, list[familiar.Profile]] = {}
    for source in config.data.sources:
        for case in training_cases(config, source):
            say(f"contrast of {case.id}")
            profiles.setdefault(case.patient, []).append(prepare(read_scan(case), config.input).profile)
    try:
        return familiar.learn(profiles)
    except ValueError as error:
        say(f"no scan will be flagged for its contrast: {error}")
        return None


def judges_of_networks(config: Config) -> list[Truth]:
    """Scans no network saw: kept aside with a tumour, and phantoms."""
    kept = [truth for truth in map(read_truth, held_out_cases(config)) if truth.tumour is not None]
    return [*kept, *(read_phantom(seed, index) for index, seed in enumerate(UNSEEN_PHANTOMS))]


def judges_of_storage(config: Config) -> list[Truth]:
    """One scan of each target patient and two phantoms: what they were trained for does not matter, only whether rounding moves it."""
    first = [next(iter(target_truths(config, patient))) for patient in config.folds]
    return [*first, *(read_phantom(seed, index) for index, seed in enumerate(UNSEEN_PHANTOMS[:2]))]


def phantom_truths() -> Iterator[Truth]:
    """Whole-head phantoms of seeds never trained on: those the demo can show, and others thin and thick."""
    from model.phantom import make_phantom

    for seed in DEMO_PHANTOMS:
        yield phantom_truth(make_phantom(seed=seed), f"phantom-{seed} (demo) 1.0 x 1.0 x 1.0 mm")
    for index, seed in enumerate(UNSEEN_PHANTOMS):
        truth = read_phantom(seed, index)
        spacing = " x ".join(f"{step:.1f}" for step in truth.scan.spacing_mm)
        yield Truth(f"phantom-{seed} {spacing} mm", truth.patient, truth.scan, truth.lesion, truth.tumour, truth.brain, True)


def measure_kept_aside(config: Config, folder: Path, pictures: Path | None, say: Say) -> dict[str, Any]:
    """Phantoms and kept-aside scans through the released network and its released lesion definition."""
    release, engine = open_reference(folder)
    figures: dict[str, Any] = {
        "phantoms": measure_phantoms(release.card, engine, pictures, say, folder / "evidence" / "phantoms"),
        "kept_aside": {},
    }
    for case in held_out_cases(config):
        truths = [read_truth(case)]
        if case.extracted:
            truths.append(with_head(truths[0], HEAD_SEED))
        for truth in truths:
            served = _look(truth, engine, release.card, pictures, say)
            figures["kept_aside"][truth.name] = {**other_figures(served, release.card.lesion), **_off(served, release.card)}
    return figures


def measure_phantoms(card: Card, engine: Engine, pictures: Path | None, say: Say, shown: Path) -> dict[str, Any]:
    """Scores of every unseen phantom under the released lesion definition; pictures of those that the demo does not show in `shown`."""
    figures = {}
    for truth in phantom_truths():
        served = _look(truth, engine, card, pictures, say)
        if "demo" not in truth.name:
            draw_served(served, card.lesion, shown)
        others = {**other_figures(served, card.lesion), **_off(served, card)}
        figures[truth.name] = {**score_lesions(served, card.lesion).as_dict(), **others}
    return figures


def _off(served: Served, card: Card) -> dict[str, float]:
    """How far the contrast lies from the training scans'."""
    return {"contrast_distance": round(familiar.distance(served.profile, card.contrast), 2)} if card.contrast else {}


def _look(truth: Truth, engine: Engine, card: Card, pictures: Path | None, say: Say) -> Served:
    say(f"serve {truth.name}")
    served = serve(truth, engine, card)
    if pictures is not None:
        draw_served(served, card.lesion, pictures)
    return served


def draw_served(served: Served, definition: LesionDefinition, folder: Path) -> None:
    """An overlay of what was found and what was known."""
    folder.mkdir(parents=True, exist_ok=True)
    name = served.truth.name.replace("/", "-").replace(" ", "_")
    draw_overlay(served.truth, served.labels(definition), served.brain, folder / f"{name}.png")


def summary_line(figures: dict[str, Any]) -> str:
    """The folds in one line, for the terminal."""
    mean = figures["mean_over_patients"]
    patients: Sequence[str] = [f"{name} {_said(values['dice'])}" for name, values in figures["patients"].items()]
    return f"Dice {_said(mean['dice'])}, lesion F1 {_said(mean['lesion_f1'])} (n = {figures['n_patients']} patients): {', '.join(patients)}"


def _said(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
