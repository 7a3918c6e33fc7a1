"""The command line: with `commands` the one place that knows service, worker and model, each imported when its command runs."""

from __future__ import annotations

import logging
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service import commands
from service.commands import by_hand, read_settings, releases
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
def cases(
    state: Annotated[str | None, typer.Option(help="Only cases in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 20,
) -> None:
    """List the newest cases the service knows."""
    from service.commands import tables

    tables.print_cases(read_settings(), state, limit)


@APP.command()
def case(case_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Show one case: its state and why, stages, findings, outputs, deliveries, history."""
    from service.commands import tables

    tables.print_case(read_settings(), case_id)


by_hand.add_to(APP)
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


def _start() -> Settings:
    """Read the settings and begin to log, once, for a process that stays."""
    from service.log import configure_logging

    settings = read_settings()
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
