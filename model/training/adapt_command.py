"""`leukoscope train adapt` and `leukoscope train accept`: from corrected scans to a proposal, and from a proposal to a release."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from model.training.adapt import Site
    from model.training.layouts import Case

DicomDoor = Callable[[Path, Path], Path]
NOT_CORRECTED = "not corrected"

Releases = Annotated[Path | None, typer.Option("--into", help="folder of releases; default: the one the service looks in")]


def adapt(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Argument(exists=True, help="corrected scans: DICOM SEG beside their series, or any layout `train data` knows")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="where the proposal goes; the same folder again goes on after a kill")],
    release: Annotated[str, typer.Option(help="name, version or folder of the release to start from; default: the newest")] = "",
    config: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="YAML in the place of adaptation.yaml")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="training steps of each network, in the place of the configuration's")] = None,
    replay: Annotated[list[Path] | None, typer.Option(exists=True, help="annotated scans to replay in training; may be repeated")] = None,
    guard: Annotated[
        list[Path] | None, typer.Option(exists=True, help="annotated scans to judge on, never trained on; may be repeated")
    ] = None,
    irradiated: Annotated[int | None, typer.Option(min=0, help="how many of these patients were irradiated; every report says it")] = None,
) -> None:
    """Fine-tune a release on corrected scans, judge it on patients left out, and propose it. Nothing is served until it is accepted."""
    with _explained():
        site = _read_site(context.obj, folder, out, release, config, steps, replay or [], guard or [], irradiated)
        _propose(site)


def accept(
    proposal: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="folder that `train adapt` wrote")],
    by: Annotated[str, typer.Option(help="the person who takes responsibility for the release")],
    release_version: Annotated[str | None, typer.Option(help="version of the new release; default: the old one's with +site.N")] = None,
    into: Releases = None,
    against_the_verdict: Annotated[str | None, typer.Option(metavar="REASON", help="accept a release that was judged worse")] = None,
) -> None:
    """Make a proposed release one that can be served, with who accepted it in its card."""
    from model.release import RELEASES
    from model.training.proposal import accept as publish

    with _explained():
        folder = publish(proposal, by, into or RELEASES, release_version, against_the_verdict)
    typer.echo(folder)
    _say(f"accepted by {by.strip()}. The service takes the newest release at its next start, or the one LEUKOSCOPE_RELEASE names.")


def _read_site(
    door: DicomDoor | None,
    folder: Path,
    out: Path,
    release: str,
    config: Path | None,
    steps: int | None,
    replay: list[Path],
    guard: list[Path],
    irradiated: int | None,
) -> Site:
    from model.release import find
    from model.training.adapt import DEFAULTS, Site, read_adapt_config
    from model.training.corrections import Refused, number_corrections

    base = find(release)
    read = read_adapt_config(config or DEFAULTS, steps)
    cases = [case for case in read_cases(folder, out / "cases", door) if not _is_untouched(case)]
    corrections = number_corrections(cases, base.card)
    patients = {correction.patient for correction in corrections}
    if irradiated is not None and irradiated > len(patients):
        raise Refused(f"--irradiated {irradiated}: there are {len(patients)} patients")
    known = patients - {correction.patient for correction in corrections if correction.judged}
    _say(f"{len(corrections)} corrected scans of {len(patients)} patients for {base.card.name} {base.card.version}")
    if known:
        _say(f"trained on, not judged on, since the release knows them: {', '.join(sorted(known))}")
    others = [
        tuple(case for path in paths for case in read_cases(path, out / name, door))
        for name, paths in (("replay", replay), ("guard", guard))
    ]
    return Site(base, tuple(corrections), others[0], others[1], read, out, irradiated)


def read_cases(folder: Path, out: Path, door: DicomDoor | None) -> list[Case]:
    """Every case of a folder in whatever layout; DICOM through the door that the command line opened.

    Raises
    ------
    UnusableCase
        No layout fits.
    """
    from model.training.layouts import UnusableCase, detect_layouts, find_cases
    from model.training.layouts.detect import is_dicom

    if folder.is_dir() and is_dicom(folder):
        if door is None:
            raise UnusableCase(f"{folder}: DICOM is read by `leukoscope train`; this way in takes NIfTI only")
        return find_cases("manifest", door(folder, out))
    return [case for found in detect_layouts(folder) for case in found.cases]


def _is_untouched(case: Case) -> bool:
    """Our own segmentation that nobody changed: learning from it would be agreeing with ourselves."""
    if NOT_CORRECTED not in case.provenance:
        return False
    _say(f"left out: {case.id}, {case.provenance}")
    return True


def _propose(site: Site) -> None:
    import torch

    from model.training.adapt import adapt as fine_tune
    from model.training.proposal import write_cases, write_proposal

    torch.set_num_threads(site.config.threads)
    write_cases(site)
    adapted = fine_tune(site, _say)
    _say("measure the candidate, write the proposal")
    verdict = write_proposal(site, adapted)
    for sentence in verdict.sentences:
        _say(f"  {sentence}")
    _say(f"the candidate is {'not worse than' if verdict.passed else 'WORSE than'} {site.base.card.name} {site.base.card.version}")
    accepting = f"leukoscope train accept {site.out} --by NAME" + ("" if verdict.passed else " --against-the-verdict REASON")
    _say(
        f"look at {site.out / 'evidence.md'}; then leave it"
        + (f", or `{accepting}`" if verdict.passed else f"; only with a reason: `{accepting}`")
    )
    typer.echo(site.out)


def _say(message: str) -> None:
    typer.echo(message, err=True)


@contextmanager
def _explained() -> Iterator[None]:
    """What a person has to change ends the command in one sentence."""
    from pydantic import ValidationError

    from model.release import ReleaseMismatch
    from model.training.corrections import Refused
    from model.training.fit import CannotTrain
    from model.training.layouts import UnusableCase
    from model.training.restore import NotRestored

    try:
        yield
    except (Refused, UnusableCase, CannotTrain, NotRestored, ReleaseMismatch, ValidationError) as error:
        _say(f"error: {error}")
        raise typer.Exit(1) from None
