"""The command line: with `commands` the one place that knows service, worker and model, each imported when its command runs."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service import commands
from service.commands import releases
from service.commands.releases import served_release

if TYPE_CHECKING:
    from service.settings import Settings

APP = typer.Typer(
    name="leukoscope",
    help="Segments white-matter hyper-intensities on brain FLAIR MRI for a hospital's imaging network. Investigational.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_SEGMENT_STEPS = 7  # the engine, and the six stages of worker.pipeline
_NODE = re.compile(r"(?P<title>[^@]{1,16})@(?P<host>\[[0-9a-fA-F:]+\]|[^:@]+):(?P<port>\d{1,5})")


class Queue(StrEnum):
    """What a worker works on."""

    INFERENCE = "inference"
    DELIVERY = "delivery"


@APP.command()
def serve() -> None:
    """Run everything in one place: DICOM listener, REST API and two workers, on embedded parts unless the settings say otherwise."""
    from service.children import die_with_parent

    die_with_parent(os.environ)
    from service import serve as supervisor

    settings = _start()
    served_release(settings)
    _demand_engine(settings)
    _demand_certificates(settings)
    raise typer.Exit(supervisor.run(settings))


@APP.command()
def listen() -> None:
    """Run the DICOM listener alone."""
    from service import serve as supervisor

    settings = _start()
    _demand_certificates(settings)
    raise typer.Exit(supervisor.run(settings, parts=("listener",)))


@APP.command()
def api() -> None:
    """Run the REST API alone."""
    from service import serve as supervisor

    raise typer.Exit(supervisor.run(_start(), parts=("api",)))


@APP.command()
def worker(
    queue: Annotated[Queue, typer.Option(help="What to work on.")] = Queue.INFERENCE,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Destinations served at a time; inference does one case.")] = None,
    owner: Annotated[str | None, typer.Option(hidden=True, help="How this worker signs its leases.")] = None,
) -> None:
    """Run one worker alone."""
    from service.children import die_with_parent

    die_with_parent(os.environ)
    settings = _start()
    if queue is Queue.INFERENCE:
        from worker.tasks.inference import work_on_inference

        _demand_engine(settings)
        code = work_on_inference(settings, served_release(settings), owner)
    else:
        from worker.tasks.delivery import work_on_delivery

        _demand_certificates(settings)
        code = work_on_delivery(settings, concurrency, owner)
    logging.shutdown()
    os._exit(code)  # all work is done: Celery's and the engine's own ends take seconds and change nothing


@APP.command()
def push(
    folder: Annotated[Path, typer.Argument(exists=True, help="A folder of DICOM files, or one file.")],
    to: Annotated[str, typer.Option("--to", metavar="AE@HOST:PORT", help="The node to send to.")],
    calling_ae: Annotated[str, typer.Option("--from", metavar="AE", help="The title to call from.")] = "LEUKOSCOPE",
) -> None:
    """Send a folder by C-STORE."""
    from rich.console import Console
    from rich.progress import Progress

    from service.calling import Peer
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
        answers = send.send(peer, files, lambda _answer: progress.advance(bar))
    refused = [answer for answer in answers if answer.category == "Failure"]
    for answer in refused[:10]:
        status = "no status" if answer.status is None else f"0x{answer.status:04X}"
        console.print(f"{answer.path.name}: {status} {answer.comment}", style="red", markup=False)
    console.print(f"{len(answers) - len(refused)} of {len(answers)} accepted by {peer.ae_title}")
    raise typer.Exit(1 if refused else 0)


@APP.command()
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
    from worker import pipeline

    console = Console(stderr=True)
    settings = _settings()
    release = served_release(settings)
    if source.is_dir():
        choice = choose_series(source, settings, series)
        console.print(choice.why, highlight=False)
        case: pipeline.Input = choice.files
        doubts = choice.quality
    else:
        case, doubts = pipeline.read_nifti(source), ()
    with Progress(console=console) as progress:
        bar = progress.add_task("engine", total=_SEGMENT_STEPS)
        engine = open_engine(release, settings.engine, settings.precision, threads=settings.threads)
        result = pipeline.run(
            case,
            release,
            engine,
            segmentation=settings.segmentation,
            rtstruct=settings.rtstruct,
            on_stage=lambda name: progress.update(bar, advance=1, description=name),
        )
        progress.update(bar, completed=_SEGMENT_STEPS)
    output.mkdir(parents=True, exist_ok=True)
    clear_folders(output)
    for item in result.outputs:
        console.print(str(write_result(output, item.filename, item.data)), highlight=False)
    for flag in dict.fromkeys((*doubts, *result.quality)):
        console.print(f"note: {flag}", style="yellow", markup=False)


@APP.command()
def cases(
    state: Annotated[str | None, typer.Option(help="Only cases in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 20,
) -> None:
    """List the newest cases the service knows."""
    from service.commands import tables

    tables.print_cases(_settings(), state, limit)


@APP.command()
def case(case_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Show one case: its state and why, stages, findings, outputs, deliveries, history."""
    from service.commands import tables

    tables.print_case(_settings(), case_id)


@APP.command()
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


commands.add_to(APP)
APP.add_typer(releases.APP, name="releases")


@APP.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def train(context: typer.Context) -> None:
    """Train, fine-tune, evaluate and export a network (needs the extra 'train')."""
    try:
        from model.training.cli import app
    except ModuleNotFoundError as error:
        from service.errors import Misconfigured

        raise Misconfigured(f"training needs {error.name}: pip install 'leukoscope[train]'") from None
    app(args=context.args, prog_name="leukoscope train", obj=_read_corrections)


def _read_corrections(folder: Path, out: Path) -> Path:
    """Let training read DICOM, which it cannot by itself: SEG sent back and their series become NIfTI and a manifest."""
    from worker.corrections import read_corrections

    return read_corrections(folder, out)


def _settings() -> Settings:
    from service.settings import load_settings

    return load_settings()


def _start() -> Settings:
    """Read the settings and begin to log, once, for a process that stays."""
    from service.log import configure_logging

    settings = _settings()
    configure_logging(settings.log_level)
    return settings


def _demand_engine(settings: Settings) -> None:
    """Refuse the start where the engine that the settings name can never be had here."""
    from model.installed import EngineUnavailable, demand_engine
    from service.errors import Misconfigured

    try:
        demand_engine(settings.engine, settings.precision)
    except EngineUnavailable as error:
        raise Misconfigured(f"engine {settings.engine}: {error}") from None


def _demand_certificates(settings: Settings) -> None:
    """Refuse the start where a node that is called with TLS can never be: our own files are missing, or not valid."""
    from service.tls import demand_files, nodes_among

    demand_files([*nodes_among("destination", settings.destinations), *nodes_among("source", settings.sources)])


def _expected() -> tuple[type[Exception], ...]:
    """Give the failures that are the caller's to mend: shown as one line, never as a traceback."""
    from service.errors import Misconfigured, Rejected, Unavailable

    kinds: list[type[Exception]] = [Misconfigured, Rejected, Unavailable, BrokenPipeError]
    for module, name in (
        ("model.release", "ReleaseMismatch"),
        ("model.volume", "UnusableVolume"),
        ("model.installed", "EngineUnavailable"),
    ):
        if module in sys.modules:
            kinds.append(getattr(sys.modules[module], name))
    return tuple(kinds)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 refused or failed, 2 wrong usage or settings."""
    try:
        APP()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not isinstance(error, _expected()):
            raise
        from service.errors import Misconfigured

        typer.echo(f"leukoscope: {error}", err=True)
        sys.exit(2 if isinstance(error, Misconfigured) else 1)


if __name__ == "__main__":
    main()
