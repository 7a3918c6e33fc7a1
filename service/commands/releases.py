"""`leukoscope releases`: list, verify, compare and measure; each command imports worker and model when it runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from service.commands import read_settings

if TYPE_CHECKING:
    from model.release import Release
    from service.settings import Settings

APP = typer.Typer(help="The models that can be served.", no_args_is_help=True)
FOLDERS = "Scans in any layout that training knows, NIfTI files with X_mask.nii.gz beside X.nii.gz, or DICOM series."
Row = TypeVar("Row")


@APP.command("list")
def list_releases() -> None:
    """List the releases that are here."""
    from model.release import available, load

    for folder in available():
        card = load(folder).card
        typer.echo(f"{folder.name}  {card.name} {card.version}  {card.sha256[:12]}  {card.summary}")


@APP.command()
def verify(
    folder: Annotated[Path | None, typer.Argument(help="A release folder; default: the one that is served.")] = None,
    run: Annotated[bool, typer.Option("--run", help="Also open the engine and find in a phantom what the card says.")] = False,
) -> None:
    """Check that weights and card belong together."""
    from model.release import load

    release = load(folder) if folder else served_release(read_settings())
    typer.echo(f"{_name(release)}: weights match the card ({release.card.sha256})")
    if run:
        from model.engine import open_engine
        from worker.releases import check_phantom

        settings = read_settings()
        engine = open_engine(release, settings.engine, "f32", threads=settings.threads)
        found, said = check_phantom(release, engine)
        recorded = "none is in the card" if said is None else f"the card says {said:.2f} ml"
        typer.echo(f"{engine.name}, f32: {found:.2f} ml of lesion in the phantom, {recorded}")


@APP.command()
def compare(
    first: Annotated[str, typer.Argument(help="A release: name, version or folder.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help=FOLDERS)],
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures there.")] = None,
) -> None:
    """Serve every case of a folder with two releases: volumes, seconds, the difference, and Dice where there is a mask."""
    from rich.console import Console

    from model.engine import open_engine
    from model.release import find
    from worker import releases, scans
    from worker.frames import Limits

    settings = read_settings()
    cases = scans.find_scans(folder)
    pair = (find(first), find(second))
    one, other = (open_engine(release, settings.engine, settings.precision, threads=settings.threads) for release in pair)
    found = releases.compare(cases, pair, (one, other), _chooser(settings), Limits.from_settings(settings))
    rows = _with_bar(found, "comparing", len(cases))
    Console().print(releases.tabulate(rows, (pair[0].card.version, pair[1].card.version)))
    if json_file is not None:
        _write_json(json_file, {"releases": [_name(release) for release in pair], "cases": [row.as_dict() for row in rows]})
    if any(row.problem for row in rows):
        raise typer.Exit(1)


@APP.command()
def measure(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER", exists=True, file_okay=False, help=FOLDERS)],
    name: Annotated[
        str | None, typer.Option("--release", metavar="R", help="Name, version or folder; default: the one that is served.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures there.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Also write the table there.")] = None,
) -> None:
    """Serve every scan of the folders with one release, and say how well it fits the masks. A scan that is refused is a row, no failure."""
    from rich.console import Console

    from model.engine import open_engine
    from model.release import find
    from worker import scans, scores
    from worker.frames import Limits

    settings = read_settings()
    cases = scans.find_scans(*folders)
    release = find(name) if name else served_release(settings)
    engine = open_engine(release, settings.engine, settings.precision, threads=settings.threads)
    found = scores.measure_release(cases, release, engine, _chooser(settings), Limits.from_settings(settings))
    rows = _with_bar(found, "measuring", len(cases))
    title = f"{_name(release)} on {len(rows)} scans ({engine.name}, {engine.precision})"
    shown = Console() if Console().is_terminal else Console(width=scores.FILE_COLUMNS)
    shown.print(scores.tabulate(rows))
    shown.print(f"{title}; {sum(row.figures is None for row in rows)} refused", highlight=False, markup=False)
    if json_file is not None:
        made = {"release": _name(release), "sha256": release.card.sha256, "engine": engine.name, "precision": engine.precision}
        _write_json(json_file, {**made, "scans": [row.as_dict() for row in rows]})
    if markdown is not None:
        markdown.write_text(scores.as_markdown(rows, title), encoding="utf-8")


def served_release(settings: Settings) -> Release:
    """Load and verify the release that the settings name, or the newest one here.

    Raises
    ------
    Misconfigured
        There is none of that name, or none at all.
    """
    from model.release import RELEASES, load
    from service.errors import Misconfigured

    if settings.release:
        named = RELEASES / settings.release
        folder = named if (named / "card.json").is_file() else Path(settings.release)
        if not (folder / "card.json").is_file():
            raise Misconfigured(f"release {settings.release}: neither a name in {RELEASES} nor a folder with a card.json")
        return load(folder)
    folders = [path.parent for path in RELEASES.glob("*/card.json")]
    if not folders:
        raise Misconfigured(f"no release in {RELEASES}; name one with LEUKOSCOPE_RELEASE")
    return load(max(folders, key=_version_of))


def _version_of(folder: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", folder.name))


def _with_bar(rows: Iterable[Row], what: str, total: int) -> list[Row]:
    from rich.console import Console
    from rich.progress import track

    return list(track(rows, what, total=total, console=Console(stderr=True)))


def _chooser(settings: Settings) -> Callable[[Path], tuple[Sequence[Path], Sequence[str]]]:
    """Give what picks the FLAIR of a DICOM folder, by the same rules as for what is sent to the service."""
    from service.commands.choose import choose_series

    def choose(folder: Path) -> tuple[Sequence[Path], Sequence[str]]:
        choice = choose_series(folder, settings)
        return choice.files, choice.quality

    return choose


def _name(release: Release) -> str:
    return f"{release.card.name} {release.card.version}"


def _write_json(path: Path, told: dict[str, Any]) -> None:
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
