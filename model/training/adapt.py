"""Adapting a release to the scans a site has corrected: fine-tuned with replay, judged on patients left out, proposed and no more.

References
----------
What the reader said nothing about is taught as the old release saw it, and old tasks are replayed: Li & Hoiem 2016, arXiv:1606.09282.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from model.engine import Engine
from model.release import Calibration, Card, LesionDefinition, Release, load
from model.training.assemble import read_phantom
from model.training.calibrate import judge, measure_scan
from model.training.configuration import Schedule
from model.training.corrections import Correction, KnownPatients, Refused, digest
from model.training.definition import choose_definition
from model.training.evaluate import Served, other_figures, score_lesions, serve
from model.training.evidence import open_reference, score_folds
from model.training.examples import Example, Truth, make_example, read_truth
from model.training.fit import fit
from model.training.layouts import Case
from model.training.network import AttentionVNet
from model.training.paint import Bank
from model.training.restore import restore_network, write_weights
from model.training.site_bank import anatomical_prior, site_bank
from model.training.verdict import Margins, Row, plain

Say = Callable[[str], None]
DEFAULTS = Path(__file__).parent / "configurations" / "adaptation.yaml"


class AdaptConfig(BaseModel):
    """How a release is adapted; `configurations/adaptation.yaml` unless another file is named."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    seed: int = 1
    threads: int = 2
    folds: int = Field(default=5, ge=2, description="at most so many; with fewer patients one is left out at a time")
    replay_phantoms: tuple[int, ...] = Field(description="seeds of phantoms that are trained on")
    guard_phantoms: tuple[int, ...] = Field(min_length=1, description="seeds of phantoms that old and new release are judged on")
    margins: Margins = Margins()
    schedule: Schedule


def read_adapt_config(path: Path = DEFAULTS, steps: int | None = None) -> AdaptConfig:
    """Read a configuration; `steps` replaces the schedule's.

    Raises
    ------
    Refused
        A phantom is both trained and judged on.
    """
    config = AdaptConfig.model_validate(yaml.safe_load(path.read_text()))
    if steps is not None:
        changed = Schedule.model_validate({**config.schedule.model_dump(), "steps": steps})
        config = config.model_copy(update={"schedule": changed})
    if both := sorted(set(config.replay_phantoms) & set(config.guard_phantoms)):
        raise Refused(f"{path}: phantoms {both} are in replay_phantoms and guard_phantoms; nothing is judged on what it was trained on")
    return config


@dataclass(frozen=True)
class Site:
    """What an adaptation is given.

    Attributes
    ----------
    replay, guard : further scans to train on, and to judge the final network on
    irradiated : how many of the patients were irradiated; None if nobody said
    """

    base: Release
    corrections: tuple[Correction, ...]
    replay: tuple[Case, ...]
    guard: tuple[Case, ...]
    config: AdaptConfig
    out: Path
    irradiated: int | None = None

    @property
    def judged(self) -> list[str]:
        """Patients the old release does not know, by number."""
        return sorted({correction.patient for correction in self.corrections if correction.judged})


@dataclass(frozen=True)
class Adapted:
    """A final release, not measured for its engines yet, with everything that was found out on the way."""

    release: Release
    rows: tuple[Row, ...]
    served: dict[str, list[Served]]
    definitions: dict[str, LesionDefinition]
    folds: dict[str, Any]


def adapt(site: Site, say: Say) -> Adapted:
    """Fine-tune in folds and on all, and judge. A killed run goes on where it was.

    Raises
    ------
    Refused
        `out` holds another adaptation, a scan would be judged that was trained on, or nothing was learnt.
    """
    demand_apart(site)
    demand_same_plan(site)
    prior = anatomical_prior()
    start = restore_network(site.base)
    say(f"{site.base.card.name} {site.base.card.version}: weights read back, and computing what the release computes")
    examples = prepare_examples(site, prior, say)
    old: dict[str, dict[str, float | None]] = {}
    served: dict[str, list[Served]] = {}
    for number, left_out in enumerate(folds := make_folds(site.judged, site.config), 1):
        say(f"fold {number} of {len(folds)}: {', '.join(left_out)} left out")
        kept = [example for example in examples if example.patient not in left_out]
        network = _train(site, f"fold-{number}", start, kept, prior, say)
        fold = write_release_with(site.base, network, site.out / "runs" / f"fold-{number}" / "release")
        _judge_fold(site, fold, left_out, served, old, say)
    definitions = choose_nested(served, site.base.card.lesion)
    rows = [
        Row("site", found.truth.patient, found.truth.name, old[found.truth.name], figures_of(found, definitions[patient]))
        for patient, group in served.items()
        for found in group
    ]
    say("final network: trained on all corrections")
    network = _train(site, "final", start, examples, prior, say)
    chosen = choose_for([found for group in served.values() for found in group], site.base.card.lesion)
    release = write_release_with(site.base, network, site.out / "candidate", lesion=chosen)
    if release.card.sha256 == site.base.card.sha256:
        raise Refused(
            f"{site.out / 'runs' / 'final'}: no step was taken, the weights are the old ones (log.jsonl counts the skipped steps)"
        )
    restore_network(release)
    rows += judge_guard(site, release, say)
    return Adapted(release, tuple(rows), served, definitions, score_folds(served, definitions))


def demand_apart(site: Site) -> None:
    """Refuse a scan or a patient that would be trained and judged on."""
    patients = {correction.case.patient for correction in site.corrections} | {case.patient for case in site.replay}
    scans = {correction.scan_sha256 for correction in site.corrections} | {digest(case.flair) for case in site.replay}
    known = KnownPatients(site.base.card)
    for case in site.guard:
        if case.patient in patients or digest(case.flair) in scans:
            raise Refused(f"{case.id}: among the guard scans and the scans trained on; nothing is judged on what it was trained on")
        if known.has(case.patient):
            raise Refused(
                f"{case.id}: {site.base.card.name} {site.base.card.version} was trained on this patient; take it from the guard scans"
            )
    corrected = {c.case.patient: c for c in site.corrections}, {c.scan_sha256: c for c in site.corrections}
    for case in site.replay:
        if case.patient in corrected[0] or digest(case.flair) in corrected[1]:
            raise Refused(f"{case.id}: among the corrections and the replay scans, so no fold could leave the patient out; keep it in one")


def demand_same_plan(site: Site) -> None:
    """A folder holds one adaptation: going on after a kill with other scans or settings would mix two.

    Raises
    ------
    Refused
        It holds another.
    """
    plan = {
        "release": site.base.card.sha256,
        "corrections": [[c.scan_sha256, c.mask_sha256] for c in site.corrections],
        "replay": [[case.id, digest(case.flair)] for case in site.replay],
        "configuration": site.config.model_dump(mode="json"),
    }
    path = site.out / "plan.json"
    if path.exists():
        before = json.loads(path.read_text())
        if other := [key for key, value in plan.items() if before.get(key) != value]:
            raise Refused(f"{site.out} holds an adaptation with another {' and '.join(other)}: choose another folder, or delete this one")
        return
    site.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plan, indent=1))


def prepare_examples(site: Site, prior: Bank, say: Say) -> list[Example]:
    """Every scan to train on, prepared as it is served."""
    examples = []
    for index, correction in enumerate(site.corrections, 1):
        say(f"prepare {correction.number} ({index} of {len(site.corrections)})")
        examples.append(make_example(correction.read(), "target", site.base.card.input, prior))
    for index, case in enumerate(site.replay, 1):
        say(f"prepare replay {case.id} ({index} of {len(site.replay)})")
        examples.append(make_example(read_truth(case), kind_of(case), site.base.card.input, prior))
    for index, seed in enumerate(site.config.replay_phantoms):
        say(f"prepare phantom {seed} ({index + 1} of {len(site.config.replay_phantoms)})")
        examples.append(make_example(read_phantom(seed, index), "phantom", site.base.card.input, prior))
    return examples


def kind_of(case: Case) -> str:
    """How a replayed scan is mixed and painted: by what is known of it."""
    if case.lesion is not None:
        return "replay"
    return "tumour" if case.tumour is not None else "raw"


def make_folds(patients: Sequence[str], config: AdaptConfig) -> list[list[str]]:
    """Patients left out together: one at a time, or `config.folds` groups."""
    shuffled = random.Random(config.seed).sample(list(patients), len(patients))
    count = min(config.folds, len(shuffled))
    return [sorted(shuffled[index::count]) for index in range(count)]


def _train(site: Site, name: str, start: AttentionVNet, kept: Sequence[Example], prior: Bank, say: Say) -> AttentionVNet:
    folder = site.out / "runs" / name
    bank = site_bank(prior, kept)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trained-on.json").write_text(json.dumps({"scans": [example.name for example in kept], "shapes": bank.names}, indent=1))
    weights = fit(copy.deepcopy(start), kept, bank, site.config.schedule, folder, site.config.seed, say)
    network = copy.deepcopy(start)
    network.load_state_dict({key: value.cpu() for key, value in weights.items()})
    return network.eval()


def write_release_with(base: Release, network: AttentionVNet, folder: Path, **changes: Any) -> Release:
    """The base release with other weights, and what else of its card changes."""
    sha256 = write_weights(base, network, folder / base.card.weights)
    card = Card.model_validate({**base.card.model_copy(update=changes).model_dump(), "sha256": sha256})
    (folder / "card.json").write_text(card.model_dump_json(indent=2) + "\n")
    return load(folder)


def _judge_fold(
    site: Site, fold: Release, left_out: Sequence[str], served: dict[str, list[Served]], old: dict[str, dict[str, float | None]], say: Say
) -> None:
    """Old and new release on the scans of the patients left out."""
    (before, old_engine), (after, new_engine) = open_reference(site.base.folder), open_reference(fold.folder)
    for correction in site.corrections:
        if correction.patient not in left_out:
            continue
        say(f"serve {correction.number} of {correction.patient} with the old and the new release")
        truth = correction.read()
        old[correction.number] = figures_of(serve(truth, old_engine, before.card), before.card.lesion)
        served.setdefault(correction.patient, []).append(serve(truth, new_engine, after.card))


def figures_of(served: Served, definition: LesionDefinition) -> dict[str, float | None]:
    """Every figure of one scan, numbers only."""
    scores = {} if served.truth.lesion is None else score_lesions(served, definition).as_dict()
    return plain({**scores, **other_figures(served, definition)})


def choose_nested(served: dict[str, list[Served]], start: LesionDefinition) -> dict[str, LesionDefinition]:
    """For every patient the lesion definition chosen on the other patients."""
    return {
        patient: choose_for([found for other, group in served.items() if other != patient for found in group], start) for patient in served
    }


def choose_for(found: Sequence[Served], start: LesionDefinition) -> LesionDefinition:
    """The best definition for these scans; the old one where none of them has a lesion to choose by."""
    diseased = [one for one in found if one.truth.lesion is not None and one.truth.lesion.any()]
    return choose_definition(diseased, start) if diseased else start


def judge_guard(site: Site, candidate: Release, say: Say) -> Iterator[Row]:
    """Old and final release on scans that neither has to do with the site: is what they knew still there?"""
    (before, old_engine), (after, new_engine) = open_reference(site.base.folder), open_reference(candidate.folder)

    def compare(group: str, truth: Truth) -> Row:
        say(f"serve {truth.name} with the old and the new release")
        return Row(group, truth.patient, truth.name, _served_figures(truth, old_engine, before), _served_figures(truth, new_engine, after))

    for index, seed in enumerate(site.config.guard_phantoms):
        yield compare("phantom", read_phantom(seed, index))
    for name, patient, case in number_guards(site.guard):
        yield compare("guard", replace(read_truth(case), name=name, patient=patient))


def number_guards(cases: Sequence[Case]) -> list[tuple[str, str, Case]]:
    """Scan number, patient number and case of every guard scan."""
    patients = sorted({case.patient for case in cases})
    return [(f"guard-{n:02}", f"guard-patient-{patients.index(case.patient) + 1:02}", case) for n, case in enumerate(cases, 1)]


def _served_figures(truth: Truth, engine: Engine, release: Release) -> dict[str, float | None]:
    return figures_of(serve(truth, engine, release.card), release.card.lesion)


def measure_calibration(adapted: Adapted) -> Calibration:
    """Whether the probability may be read as a volume, on the patients left out, each under parameters fitted on the others."""
    scans = {one.truth.name: measure_scan(one, adapted.definitions[patient]) for patient, group in adapted.served.items() for one in group}
    return judge(scans, {one.truth.name: patient for patient, group in adapted.served.items() for one in group})
