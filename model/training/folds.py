"""Who is trained on and who is tested on, by patient; and what is wrong with that, said before anything trains."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.training.arms import TARGET, Draws, ExperimentConfig, NamedFold, UnusableExperiment
from model.training.assemble import training_cases
from model.training.layouts import Case, demand_apart, read_role, read_scan

Cases = dict[str, list[Case]]


@dataclass(frozen=True)
class Fold:
    """Patients of the target cohort."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]


def collect_cases(config: ExperimentConfig) -> Cases:
    """Every case that may be used, by kind; raises `UnusableCase` where a source is empty or unreadable."""
    cases: Cases = defaultdict(list)
    for source in config.data.sources:
        cases[source.kind] += training_cases(config, source)
    return dict(cases)


def patients_of(cases: Sequence[Case]) -> list[str]:
    """Everybody once, sorted."""
    return sorted({case.patient for case in cases})


def make_folds(config: ExperimentConfig, cases: Cases) -> list[Fold]:
    """The folds of the target cohort.

    Raises
    ------
    UnusableExperiment
        More patients are asked for than there are, one is named that is not there, or one is in train and test.
    """
    patients = patients_of(cases.get(TARGET, []))
    if len(patients) < 2:
        raise UnusableExperiment(
            f"kind {TARGET}: {len(patients)} patient(s); two are the fewest that can be trained on and tested on apart"
        )
    if isinstance(config.folds, Draws):
        return _draw(config.folds, patients, config.seed)
    if isinstance(config.folds, tuple):
        return [_named(fold, number, patients) for number, fold in enumerate(config.folds, start=1)]
    return [Fold(patient, tuple(other for other in patients if other != patient), (patient,)) for patient in patients]


def _draw(draws: Draws, patients: list[str], seed: int) -> list[Fold]:
    wanted = draws.n_train + draws.n_test
    if wanted > len(patients):
        raise UnusableExperiment(
            f"folds: n_train {draws.n_train} and n_test {draws.n_test} need {wanted} patients of kind {TARGET}; there are {len(patients)}. "
            "Lower them, or use `folds: leave-one-patient-out`"
        )
    folds = []
    for number in range(1, draws.draws + 1):
        order = np.random.default_rng([seed, number]).permutation(patients).tolist()
        folds.append(Fold(f"draw-{number}", tuple(sorted(order[: draws.n_train])), tuple(sorted(order[draws.n_train : wanted]))))
    return folds


def _named(fold: NamedFold, number: int, patients: list[str]) -> Fold:
    unknown = sorted({*fold.train, *fold.test} - set(patients))
    if unknown:
        raise UnusableExperiment(f"folds: fold {number}: no such patient: {', '.join(unknown)}; there are {', '.join(patients)}")
    both = sorted(set(fold.train) & set(fold.test))
    if both:
        raise UnusableExperiment(f"folds: fold {number}: in training and test at once: {', '.join(both)}")
    return Fold(f"fold-{number}", tuple(sorted(set(fold.train))), tuple(sorted(set(fold.test))))


def check_experiment(config: ExperimentConfig, cases: Cases, folds: Sequence[Fold]) -> None:
    """Everything that can be known to fail, before anything trains.

    Raises
    ------
    UnusableExperiment, UnusableCase
        A kind without scans, a scan without a mask or under two names, a fold without lesions to learn from.
    """
    _check_kinds(config, cases)
    targets = cases[TARGET]
    _check_names(targets)
    lesions = {case.id: _lesion_voxels(case) for case in targets}
    everything = [case for group in cases.values() for case in group]
    for fold in folds:
        test = [case for case in targets if case.patient in fold.test]
        demand_apart([case for case in everything if case.patient not in fold.test], test)
        if not any(lesions[case.id] for case in targets if case.patient in fold.train):
            raise UnusableExperiment(
                f"fold {fold.name}: no training scan holds a lesion ({', '.join(fold.train)}): there is nothing to learn from. "
                "Take more training patients, or name the folds' patients"
            )
    _check_copies(everything)


def _check_kinds(config: ExperimentConfig, cases: Cases) -> None:
    there = {kind for kind, group in cases.items() if group} | ({"phantom"} if config.data.phantom_seeds else set())
    for name in config.arms:
        missing = sorted(config.kinds(name) - there)
        if missing:
            raise UnusableExperiment(
                f"arms: {name}: its schedules mix the kind {', '.join(missing)}, of which there is no scan; "
                f"there are {', '.join(sorted(there))}"
            )
        if config.arms[name].segmentation == "tumour" and not any(
            case.tumour for kind in config.kinds(name) for case in cases.get(kind, [])
        ):
            raise UnusableExperiment(f"arms: {name}: its tumour head shall segment, but no scan it learns from has a tumour mask")


def _check_names(targets: Sequence[Case]) -> None:
    names = [case.id for case in targets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UnusableExperiment(f"kind {TARGET}: two scans have the name {', '.join(twice)}; a manifest.csv can name them (column scan)")
    strange = [name for name in names if Path(name).name != name]
    if strange:
        raise UnusableExperiment(
            f"kind {TARGET}: a scan's name becomes a file's name, and {strange[0]!r} cannot; rename it in the manifest"
        )


def _lesion_voxels(case: Case) -> int:
    lesion = read_role(case, "lesion", read_scan(case))
    if lesion is None:
        raise UnusableExperiment(f"{case.flair}: a scan of kind {TARGET} without a lesion mask: nothing can be scored on it")
    return int(lesion.sum())


def _check_copies(cases: Sequence[Case]) -> None:
    """Refuse one scan that lies under two patients, also as a copy under another file name."""
    by_size: dict[int, list[Case]] = defaultdict(list)
    for case in cases:
        by_size[case.flair.stat().st_size].append(case)
    for group in by_size.values():
        if len({case.patient for case in group}) < 2:
            continue
        seen: dict[tuple[str, int | None], Case] = {}
        for case in group:
            key = hashlib.sha256(case.flair.read_bytes()).hexdigest(), case.channel
            other = seen.setdefault(key, case)
            if other.patient != case.patient:
                raise UnusableExperiment(
                    f"one scan under two patients, {other.patient} and {case.patient}: {other.flair} and {case.flair} hold the same bytes. "
                    "Take one of them out (`use` of a source), or it would be trained on and tested on"
                )
