"""What comes of an adaptation: a candidate release with its evidence, which a person accepts by name or leaves."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model.engine import measure_precision
from model.release import Card, EngineLimits, Release, ReleaseMismatch, load
from model.training.adapt import Adapted, Site, measure_calibration, number_guards
from model.training.card import LIMITS
from model.training.corrections import Refused, make_tokens
from model.training.export import rewrite_card, versions
from model.training.verdict import FIGURES, Margins, Row, Verdict, judge_rows

PROPOSAL, ACCEPTED, CANDIDATE = "proposal.json", "accepted.json", "candidate"
IRRADIATED = "No irradiated patient"
MEASURED_BEFORE = "Measured before adaptation,"
VERSION = re.compile(r"\d+(\.\d+)*([-+][0-9A-Za-z.]+)?")
SITE = re.compile(r"\+site\.\d+$")


def write_proposal(site: Site, adapted: Adapted) -> Verdict:
    """Measure the candidate's precision, write its card, the verdict and the tables. Returns the verdict."""
    verdict = judge_rows(adapted.rows, site.config.margins)
    folder = adapted.release.folder
    rewrite_card(folder, **card_changes(site, adapted, verdict))
    release = load(folder)
    base = site.base.card
    proposal = {
        "base": {"name": base.name, "version": base.version, "sha256": base.sha256},
        "candidate": {"sha256": release.card.sha256, "card_sha256": _card_sha256(folder)},
        "margins": site.config.margins.model_dump(),
        "verdict": verdict.as_dict(),
        "rows": [asdict(row) for row in adapted.rows],
    }
    _write_tables(site, adapted, verdict)
    (site.out / PROPOSAL).write_text(json.dumps(proposal, indent=1) + "\n")
    return verdict


def write_cases(site: Site) -> None:
    """`cases.csv`, which stays at the site, says whose numbers are in everything else."""
    site.out.mkdir(parents=True, exist_ok=True)
    with (site.out / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "patient_number", "judged", "scan", "patient", "session", "flair", "lesion"])
        for c in site.corrections:
            writer.writerow([c.number, c.patient, c.judged, c.case.id, c.case.patient, c.case.session, c.case.flair, c.case.lesion])
        for name, patient, case in number_guards(site.guard):
            writer.writerow([name, patient, True, case.id, case.patient, case.session, case.flair, case.lesion])


def card_changes(site: Site, adapted: Adapted, verdict: Verdict) -> dict[str, Any]:
    """What of the base's card is another in the candidate's."""
    base, irradiated = site.base.card, _irradiated(site)
    folds = adapted.folds
    mean = folds["mean_over_patients"]
    kept = [limit for limit in base.limits if IRRADIATED not in limit or irradiated == 0]
    limits = tuple(limit if limit in LIMITS else f"{MEASURED_BEFORE} {base.version}: {limit}" for limit in kept)
    if irradiated is None:
        limits = (*limits, "Whether irradiated patients were in training or evaluation is not stated.")
    judged = f"Adapted at one site; judged there on {len(site.judged)} patients by networks that had not met them, as these weights have."
    training = {**base.training, "irradiated_patients": irradiated, "adaptations": [*base.training.get("adaptations", ()), _describe(site)]}
    return {
        "version": f"{SITE.sub('', base.version)}+site.candidate",
        "summary": (
            f"{base.name} {base.version} adapted to {len(site.corrections)} corrected scans of one site. Leaving out patients it had not "
            f"met: mean Dice {_told(mean['dice'])}, lesion F1 {_told(mean['lesion_f1'])} (n = {folds['n_patients']} patients, "
            f"{folds['n_scans']} scans)." + (f" {IRRADIATED} in training or evaluation." if irradiated == 0 else "")
        ),
        "engine": _engine_limits(adapted.release),
        "calibration": measure_calibration(adapted),
        "training": training,
        "figures": {
            "engine": "openvino-cpu f32, served path",
            "leave_one_patient_out": folds,
            "old_and_new": {
                "verdict": verdict.as_dict(),
                "margins": site.config.margins.model_dump(),
                "rows": [asdict(r) for r in adapted.rows],
            },
            "before_adaptation": base.figures,
        },
        "limits": (*limits, judged),
    }


def _irradiated(site: Site) -> int | None:
    before = site.base.card.training.get("irradiated_patients", 0)
    return None if before is None or site.irradiated is None else int(before) + site.irradiated


def _describe(site: Site) -> dict[str, Any]:
    """One entry of the card's `training.adaptations`."""
    base, config = site.base.card, site.config
    return {
        "from": {"name": base.name, "version": base.version, "sha256": base.sha256},
        "date": datetime.now(UTC).date().isoformat(),
        "corrections": [correction.describe() for correction in site.corrections],
        "patients": make_tokens(sorted({correction.case.patient for correction in site.corrections})),
        "judged_patients": site.judged,
        "irradiated_patients": site.irradiated,
        "replay": {"scans": len(site.replay), "phantoms": len(config.replay_phantoms)},
        "configuration": config.model_dump(mode="json"),
        "versions": versions(),
    }


def _engine_limits(release: Release) -> EngineLimits:
    """Precision is measured anew; memory is the base's, since the network is."""
    apart = measure_precision(release, "bf16")
    return release.card.engine.model_copy(
        update={
            "largest_probability_difference": round(min(0.5, 2 * apart["largest"]), 6),
            "mean_probability_difference": round(2 * apart["mean"], 8),
        }
    )


def _card_sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "card.json").read_bytes()).hexdigest()


def _write_tables(site: Site, adapted: Adapted, verdict: Verdict) -> None:
    """`evidence.csv` and `evidence.md`: for people and programs, and naming nobody."""
    names = [f"{when}_{name}" for name in FIGURES for when in ("old", "new")]
    with (site.out / "evidence.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["group", "patient", "scan", *names])
        for row in adapted.rows:
            values = [figures.get(name) for name in FIGURES for figures in (row.old, row.new)]
            writer.writerow([row.group, row.patient, row.scan, *("" if value is None else value for value in values)])
    (site.out / "evidence.md").write_text(_page(site, adapted, verdict))


def _page(site: Site, adapted: Adapted, verdict: Verdict) -> str:
    base = site.base.card
    lines = [
        f"# {base.name} {base.version}, adapted to {len(site.corrections)} corrected scans",
        "",
        f"Verdict: **{'not worse' if verdict.passed else 'WORSE'}**",
        "",
        *(f"- {sentence}" for sentence in verdict.sentences),
        "",
        "| group | patient | scan | Dice old | new | lesion F1 old | new | true ml | ml old | new |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_line(row) for row in adapted.rows),
        "",
    ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    pairs = [row.old.get("dice"), row.new.get("dice"), row.old.get("lesion_f1"), row.new.get("lesion_f1"), row.old.get("truth_ml")]
    volumes = [row.old.get("found_ml", row.old.get("lesion_ml")), row.new.get("found_ml", row.new.get("lesion_ml"))]
    numbers = [_told(value) for value in (*pairs, *volumes)]
    return f"| {row.group} | {row.patient} | {row.scan} | {' | '.join(numbers)} |"


def _told(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def accept(proposal: Path, by: str, into: Path, version: str | None = None, against: str | None = None) -> Path:
    """Put the candidate among the releases, with who accepted it and when in its card. Returns the release's folder.

    Parameters
    ----------
    by : the person who takes responsibility
    against : why it is accepted although the verdict failed

    Raises
    ------
    Refused
        No name, no whole proposal, the verdict failed and no reason is given, or the release is there already.
    """
    if not re.search(r"\w", by):
        raise Refused("a release is accepted by a person: --by needs a name")
    told = _read_proposal(proposal)
    candidate = _read_candidate(proposal, told)
    verdict = judge_rows([Row(**row) for row in told["rows"]], Margins.model_validate(told["margins"]))
    if not verdict.passed and not (against or "").strip():
        failed = [sentence for sentence in verdict.sentences if "WORSE" in sentence] or ["nothing could be compared"]
        raise Refused("the candidate is worse than the release it comes from:\n" + "\n".join(f"  {sentence}" for sentence in failed) + (
            "\nIt is accepted only with --against-the-verdict REASON, which goes into the card."
        ))  # fmt: skip
    version = _demand_version(version) if version else _next_version(told["base"]["version"], candidate.card.name, into)
    acceptance = {"by": by.strip(), "date": datetime.now(UTC).date().isoformat(), "verdict": verdict.as_dict()}
    if not verdict.passed:
        acceptance["against_the_verdict"] = str(against).strip()
    return _publish(candidate, proposal, into, version, acceptance)


def _read_proposal(folder: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads((folder / PROPOSAL).read_text())
    except (OSError, ValueError) as error:
        raise Refused(f"{folder}: no finished proposal there ({error}); `leukoscope train adapt` makes one") from None
    if (folder / ACCEPTED).exists():
        before = json.loads((folder / ACCEPTED).read_text())
        raise Refused(f"{folder}: accepted already, by {before['by']} on {before['date']} as {before['version']}")
    return told


def _read_candidate(folder: Path, told: dict[str, Any]) -> Release:
    try:
        candidate = load(folder / CANDIDATE)
    except ReleaseMismatch as error:
        raise Refused(str(error)) from None
    if {"sha256": candidate.card.sha256, "card_sha256": _card_sha256(candidate.folder)} != told["candidate"]:
        raise Refused(f"{folder}: the candidate is not the one the evidence was made with")
    return candidate


def _demand_version(version: str) -> str:
    if not VERSION.fullmatch(version):
        raise Refused(f"version {version!r}: expected something like 1.2.0 or 1.2.0+site.1")
    return version


def _next_version(base: str, name: str, into: Path) -> str:
    """The base's version with the site's next number: newer than its base, older than the base's successor."""
    plain = SITE.sub("", base)
    number = int(base[len(plain) :].rpartition(".")[2] or 0) + 1
    while (into / f"{name}-{plain}+site.{number}").exists():
        number += 1
    return f"{plain}+site.{number}"


def _publish(candidate: Release, proposal: Path, into: Path, version: str, acceptance: dict[str, Any]) -> Path:
    target = into / f"{candidate.card.name}-{version}"
    if target.exists():
        raise Refused(f"{target} is there already; another --release-version is needed")
    *before, last = candidate.card.training["adaptations"]
    training = {**candidate.card.training, "adaptations": [*before, {**last, "accepted": acceptance}]}
    try:
        into.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".accepting-", dir=into))
        shutil.copy2(candidate.weights, partial / candidate.card.weights)
        card = Card.model_validate({**candidate.card.model_dump(), "version": version, "training": training})
        (partial / "card.json").write_text(card.model_dump_json(indent=2) + "\n")
        load(partial)
        partial.chmod(0o755)
        partial.replace(target)
    except OSError as error:
        raise Refused(f"{into} cannot be written ({error.strerror}); --into names another folder of releases") from error
    (proposal / ACCEPTED).write_text(json.dumps({"by": acceptance["by"], "date": acceptance["date"], "version": version}) + "\n")
    return target
