"""What is done by hand, without a service that runs: push, segment, demo; each imports worker and model when it runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from service.commands.releases import served_release

_SEGMENT_STEPS = 7  # the engine, and the six stages of worker.pipeline
_NODE = re.compile(r"(?P<title>[^@]{1,16})@(?P<host>\[[0-9a-fA-F:]+\]|[^:@]+):(?P<port>\d{1,5})")


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program's."""
    for command in (push, segment, demo):
        app.command()(command)


def push(
    folder: Annotated[Path, typer.Argument(exists=True, help="A folder of DICOM files, or one file.")],
    to: Annotated[str, typer.Option("--to", metavar="AE@HOST:PORT", help="The node to send to.")],
    calling_ae: Annotated[str, typer.Option("--from", metavar="AE", help="The title to call from.")] = "LEUKOSCOPE",
) -> None:
    """Send a folder by C-STORE."""
    from rich.console import Console
    from rich.progress import Progress

    from service.calling import Peer, UnknownCaller
    from service.errors import Rejected
    from worker import send

    match = _NODE.fullmatch(to)
    if match is None:
        raise Rejected(f"--to {to}: expected AE@HOST:PORT")
    peer = Peer(match["title"], match["host"].strip("[]"), int(match["port"]), calling_ae)
    files = send.read_outgoing(sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else [folder])
    if not files:
        raise Rejected(f"{folder}: no DICOM file there")
    console = Console(stderr=True)
    with Progress(console=console) as progress:
        bar = progress.add_task(f"to {peer.ae_title}", total=len(files))
        try:
            answers = send.send(peer, files, lambda _answer: progress.advance(bar))
        except UnknownCaller as error:
            raise Rejected(f"{error.reason}; we called from {calling_ae}: name yourself with --from") from None
    refused = [answer for answer in answers if answer.category == "Failure"]
    for answer in refused[:10]:
        status = "no status" if answer.status is None else f"0x{answer.status:04X}"
        console.print(f"{answer.path.name}: {status} {answer.comment}", style="red", markup=False)
    console.print(f"{len(answers) - len(refused)} of {len(answers)} accepted by {peer.ae_title}")
    raise typer.Exit(1 if refused else 0)


def segment(
    source: Annotated[Path, typer.Argument(metavar="INPUT", exists=True, help="A DICOM folder, or a NIfTI file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the results go; made if missing.")],
    series: Annotated[str | None, typer.Option(metavar="UID", help="Which series, where the folder holds several.")] = None,
) -> None:
    """Segment without a server: all outputs into a folder."""
    from rich.console import Console
    from rich.progress import Progress

    from model.engine import open_engine
    from service.commands.choose import choose_series
    from service.commands.results import clear_folders, write_result
    from service.settings import load_settings
    from worker import pipeline
    from worker.frames import Limits

    console = Console(stderr=True)
    settings = load_settings()
    limits = Limits.from_settings(settings)
    release = served_release(settings)
    if source.is_dir():
        choice = choose_series(source, settings, series)
        console.print(choice.why, highlight=False)
        case: pipeline.Input = choice.files
        doubts = choice.quality
    else:
        case, doubts = pipeline.read_nifti(source, limits), ()
    with Progress(console=console) as progress:
        bar = progress.add_task("engine", total=_SEGMENT_STEPS)
        engine = open_engine(release, settings.engine, settings.precision, threads=settings.threads)
        result = pipeline.run(
            case,
            release,
            engine,
            segmentation=settings.segmentation,
            rtstruct=settings.rtstruct,
            limits=limits,
            on_stage=lambda name: progress.update(bar, advance=1, description=name),
        )
        progress.update(bar, completed=_SEGMENT_STEPS)
    output.mkdir(parents=True, exist_ok=True)
    clear_folders(output)
    for item in result.outputs:
        console.print(str(write_result(output, item.filename, item.data)), highlight=False)
    for flag in dict.fromkeys((*doubts, *result.quality)):
        console.print(f"note: {flag}", style="yellow", markup=False)


def demo(
    results: Annotated[Path, typer.Option("-o", "--output", help="Where the results go.")] = Path("demo-results"),
    seed: Annotated[int, typer.Option(help="Which phantom; 3 was picked as a clear case, the release card has the figures of 0 to 9.")] = 3,
) -> None:
    """Show the whole way on this machine: a phantom series is pushed to a service of its own, and everything comes back."""
    from model.phantom import make_phantom
    from service.calling import Peer
    from service.commands import demo as show
    from worker import send
    from worker.phantom import write_series

    def push_files(files: Sequence[Path], title: str, host: str, port: int, on_answer: Callable[[], None]) -> int:
        answers = send.send(Peer(title, host, port, "DEMO"), send.read_outgoing(files), lambda _answer: on_answer())
        return sum(answer.category != "Failure" for answer in answers)

    raise typer.Exit(show.run(results, seed, show.Cast(make_phantom, write_series, push_files)))
