"""The corrected scans a site brings: which may be judged on, under which numbers they go, and what of them a release card keeps."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model.release import Card
from model.training.examples import Truth, read_truth
from model.training.layouts import Case, UnusableCase, read_role, read_scan

LEAST_JUDGED = 2  # on one patient alone neither threshold nor evidence can come from somebody else
SHORTEST_NAME = 3
SALT_BYTES = 16


class Refused(Exception):
    """The release cannot be adapted to these scans, or not be accepted; the message says why and what to do."""


@dataclass(frozen=True)
class Correction:
    """One corrected scan under a number; the person's own name for patient and scan stays in `case`.

    Attributes
    ----------
    number, patient : "correction-01", "patient-01": all that leaves the site's own list
    judged : the patient is unknown to the release, so old and new may be judged on them
    scan_sha256, mask_sha256 : of the files
    """

    number: str
    patient: str
    case: Case
    judged: bool
    scan_sha256: str
    mask_sha256: str

    def read(self) -> Truth:
        """The scan and what is known of it, under its numbers."""
        return replace(read_truth(self.case), name=self.number, patient=self.patient)

    def describe(self) -> dict[str, Any]:
        """What the card keeps: where the correction comes from, never whose it is."""
        written = datetime.fromtimestamp(_mask(self.case).stat().st_mtime, UTC)
        return {
            "correction": self.number,
            "patient": self.patient,
            "provenance": self.case.provenance or "not stated",
            "mask_written": written.date().isoformat(),
            "mask_sha256": self.mask_sha256,
            "scan_sha256": self.scan_sha256,
            "judged": self.judged,
        }


def number_corrections(cases: Sequence[Case], base: Card) -> list[Correction]:
    """Check every case and number it.

    Raises
    ------
    Refused
        A case has no lesion mask, lies on another grid, comes twice or under two patients, names its patient in its provenance; or
        fewer than two patients are left to judge on. All problems are listed at once.
    """
    problems = [problem for case in cases for problem in _problems(case)]
    if problems:
        raise Refused("these scans cannot be learnt from:\n" + "\n".join(f"  {problem}" for problem in problems))
    known = KnownPatients(base)
    patients = sorted({case.patient for case in cases})
    numbers = {patient: f"patient-{index:02}" for index, patient in enumerate(patients, 1)}
    judged = {patient: not known.has(patient) for patient in patients}
    found = [
        Correction(
            f"correction-{index:02}",
            numbers[case.patient],
            case,
            judged[case.patient],
            digest(case.flair),
            digest(_mask(case)),
        )
        for index, case in enumerate(sorted(cases, key=lambda case: (case.patient, case.session, case.id)), 1)
    ]
    _demand_each_once(found)
    _demand_judges(judged, base)
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _mask(case: Case) -> Path:
    if case.lesion is None:
        raise Refused(f"{case.id}: no lesion mask")
    return case.lesion


def _problems(case: Case) -> Iterator[str]:
    if case.lesion is None:
        yield f"{case.id}: no lesion mask, so nothing was corrected"
        return
    try:
        read_role(case, "lesion", read_scan(case))
    except UnusableCase as error:
        yield f"{case.id}: {error}"
    if len(case.patient) >= SHORTEST_NAME and case.patient.lower() in case.provenance.lower():
        yield f"{case.id}: its provenance names the patient, and would go into the release card"


def _demand_each_once(found: Sequence[Correction]) -> None:
    first: dict[str, Correction] = {}
    for correction in found:
        other = first.setdefault(correction.scan_sha256, correction)
        if other is correction:
            continue
        one, two = other.case, correction.case
        whose = f"one patient, {one.patient}" if one.patient == two.patient else f"two patients, {one.patient} and {two.patient}"
        raise Refused(f"{one.id} and {two.id} are the same scan, of {whose}; keep the correction that counts")


def _demand_judges(judged: dict[str, bool], base: Card) -> None:
    fresh = sum(judged.values())
    if fresh >= LEAST_JUDGED:
        return
    trained = [patient for patient, free in judged.items() if not free]
    known = f"; {base.name} {base.version} was trained on {', '.join(trained)}" if trained else ""
    raise Refused(
        f"{fresh} patient{'' if fresh == 1 else 's'} to judge on{known}. Old and new release are compared on patients neither was "
        f"trained on, one left out at a time: at least {LEAST_JUDGED} new patients are needed. Correct one more, and come again."
    )


class KnownPatients:
    """Whom a release was trained on, as far as its card tells.

    Public data sets are named. A card that names data sets but not their patients counts all of a set as trained on, but those it
    kept aside. Patients of sites are tokens (`make_tokens`).
    """

    def __init__(self, card: Card) -> None:
        stages = list(_stages(card.training))
        self._named = {name for stage in stages for name in stage.get("patients", ())}
        self._kept = {name for stage in stages for name in stage.get("kept_aside", ())}
        self._sets = {prefix for stage in stages if "patients" not in stage for prefix in _data_sets(stage)}
        self._sites = [adaptation["patients"] for adaptation in card.training.get("adaptations", ())]

    def has(self, patient: str) -> bool:
        """Whether the release may have learnt from this patient."""
        if patient in self._named:
            return True
        if patient.partition("/")[0] in self._sets and "/" in patient and patient not in self._kept:
            return True
        return any(token(patient, site["salt"]) in site["tokens"] for site in self._sites)


def _stages(training: dict[str, Any]) -> Iterator[dict[str, Any]]:
    stage: dict[str, Any] | None = training
    while stage:
        yield stage
        stage = stage.get("started_from")


def _data_sets(stage: dict[str, Any]) -> set[str]:
    configuration = stage.get("configuration", {})
    sources = configuration.get("data", {}).get("sources", ())
    named = [*configuration.get("folds", ()), *(name for source in sources for name in source.get("held_out", ()))]
    return {name.partition("/")[0] for name in named} | {source["layout"] for source in sources}


def make_tokens(patients: Sequence[str]) -> dict[str, Any]:
    """A salt, and a token for every patient: whoever comes with the same patient again is known, and nobody can be read from it."""
    salt = secrets.token_hex(SALT_BYTES)
    return {"salt": salt, "tokens": sorted(token(patient, salt) for patient in patients)}


def token(patient: str, salt: str) -> str:
    """A hash that costs a tenth of a second, so that trying all patient numbers of a hospital costs weeks (RFC 7914)."""
    return hashlib.scrypt(patient.encode(), salt=bytes.fromhex(salt), n=2**15, r=8, p=1, maxmem=2**26, dklen=16).hex()
