"""The composition root of the inference: tasks that hold the lease, and translate what happened into the case's state."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery

from model.engine import Engine, EngineUnavailable, open_engine
from model.release import Release
from model.volume import UnusableVolume
from service.errors import Rejected, Unavailable
from service.presence import Counts, present
from service.queue import COMPARE, CORRECT, INFER, INFERENCE_QUEUE, make_app, submit_delivery
from service.records import Lease, LeaseLost, open_book
from service.settings import Settings
from service.store import Store
from worker import pipeline
from worker.child import ChildLost, Work, WorkChild
from worker.correcting import find_correction, take_corrections
from worker.encode import Corrected
from worker.encode.wording import irradiated_sentence
from worker.frames import Limits
from worker.keeping import FilesMissing, find_files, find_predecessor, keep_outputs, keep_record
from worker.renewal import renewing
from worker.resends import compare_resends, oversee
from worker.tasks import make_owner, work_through
from worker.window import BookBetweenForks, Window

LOG = logging.getLogger(__name__)


class Desk:
    """Where one child process works: release and engine are loaded once and kept."""

    def __init__(
        self, settings: Settings, release: Release, app: Celery, owner: str, show_engine: Callable[[str, str], None] | None = None
    ) -> None:
        self._settings = settings
        self._show_engine = show_engine
        self._release = release
        self._app = app
        self._owner = owner
        self._book = open_book(settings)
        self._store = Store(settings.data_dir, settings.minimum_free_mb)
        self._limits = Limits.from_settings(settings)
        self._engine: Engine | None = None
        self._stage = "start"

    def warm_up(self) -> None:
        """Load the engine now, so that the first case does not wait for it. Without one this worker ends: no case could be done by it."""
        try:
            shapes = self._release.card.input.shapes
            self._open_engine().warm(shapes[(len(shapes) - 1) // 2])  # what an ordinary head takes
        except EngineUnavailable as error:
            LOG.critical("engine not available, this worker ends: %s", error)
            os.kill(os.getppid(), signal.SIGTERM)  # cases stay queued for a worker that has one
            os._exit(1)

    def work(self, job: tuple[str, str], say: Callable[[int], None]) -> None:
        """Do what the parent asks for: a task, and the case it is for."""
        task, case_id = job
        if task == COMPARE:
            compare_resends(self._book, self._store, case_id, say, self._limits)
        elif task == CORRECT:
            self.correct(case_id)
        else:
            self.infer(case_id)

    def correct(self, case_id: str) -> None:
        """Look at the corrections of a case, and make the new revision at once where one is taken."""
        try:
            taken = take_corrections(self._book, self._store, case_id, self._limits)
        except Exception as error:  # the edge: a defect is logged without its text, and counted
            LOG.error("correction failed", exc_info=error, extra={"case_id": case_id})
            self._book.correction_lost(case_id)
            return
        if taken:
            self.infer(case_id)

    def infer(self, case_id: str) -> None:
        """Work on one case, if nobody else does."""
        try:
            lease = self._book.claim(case_id, self._owner)
        except Unavailable as error:
            LOG.warning("case not claimed: %s", error, extra={"case_id": case_id})
            return
        if lease is None:
            return
        try:
            with renewing(lambda: self._book.renew(lease), self._settings.lease_s):
                self._settle(lease)
        except LeaseLost:
            LOG.info("lease lost, work thrown away", extra={"case_id": case_id})
        except Unavailable as error:
            LOG.warning("outcome not written, the lease lapses: %s", error, extra={"case_id": case_id})

    def _settle(self, lease: Lease) -> None:
        """Run the case and write how it ended (the edge that translates the three kinds of failure)."""
        fields = {"case_id": lease.case_id, "revision": lease.revision}
        try:
            self._run(lease)
        except LeaseLost:
            raise
        except (Rejected, UnusableVolume) as error:
            LOG.info("case rejected", extra=fields)
            self._book.reject(lease, str(error))
        except FilesMissing as error:
            LOG.error("case failed: %s", error, extra=fields)
            self._book.fail(lease, str(error))
        except (Unavailable, EngineUnavailable) as error:
            LOG.warning("case put back: %s", error, extra=fields)
            self._book.put_back(lease, str(error))
        except Exception as error:  # the edge: a defect counts against the case and is logged without its text
            LOG.error("case failed", exc_info=error, extra=fields | {"stage": self._stage})
            self._book.fail(lease, f"{type(error).__name__} in the stage {self._stage}; the log has the details")
        else:
            LOG.info("case done", extra=fields)
            self._announce(lease)

    def _run(self, lease: Lease) -> None:
        engine = self._open_engine()
        files = find_files(self._book, self._store, lease.case_id)
        identities = self._book.told_identities(lease.case_id)
        result = pipeline.run(
            files,
            self._release,
            engine,
            revision=lease.revision,
            series_shift=self._book.number_series(lease),
            segmentation=self._settings.segmentation,
            rtstruct=self._settings.rtstruct,
            predecessor=find_predecessor(self._book, self._store, lease),
            correction=find_correction(self._book, self._store, lease.case_id),
            identity=self._book.corrected_identity(lease.case_id),
            limits=self._limits,
            on_stage=self._enter,
        )
        began = time.time()
        self._enter("store")
        rows = keep_outputs(self._store, lease, result.outputs)
        stages = {name: {"start": start, "seconds": seconds} for name, (start, seconds) in result.stages.items()}
        stages["store"] = {"start": began, "seconds": time.time() - began}
        card = self._release.card
        model = {
            "name": card.name,
            "version": card.version,
            "sha256": card.sha256,
            "engine": result.engine,
            "precision": result.precision,
        }
        findings = result.findings.as_dict() | (_said(result.corrected) if result.corrected else {})
        found: dict[str, Any] = {"findings": findings, "quality": result.quality, "model": model, "stages": stages}
        told: dict[str, Any] = {"identities": identities, "corrected": result.corrected is not None}
        rows.append(keep_record(self._book, self._store, lease, files, rows, **told, **found))
        self._book.finish(lease, outputs=rows, **found)

    def _announce(self, lease: Lease) -> None:
        if not self._settings.destinations:
            return
        try:
            submit_delivery(self._app, lease.case_id)
        except Unavailable:
            LOG.warning("delivery not announced, the sweep will", extra={"case_id": lease.case_id})

    def _enter(self, stage: str) -> None:
        self._stage = stage

    def _open_engine(self) -> Engine:
        if self._engine is None:
            settings = self._settings
            self._engine = open_engine(self._release, settings.engine, settings.precision, _cache_folder(settings), settings.threads)
            LOG.info("engine ready", extra={"engine": self._engine.name, "precision": self._engine.precision})
            if self._show_engine is not None:
                self._show_engine(self._engine.name, self._engine.precision)
        return self._engine


def _said(corrected: Corrected) -> dict[str, Any]:
    """Say beside the findings of a reader's mask whose it is, and what the release itself had found."""
    own = corrected.findings
    return {
        "corrected": {
            "reader": corrected.reader,
            "at": corrected.at.isoformat(),
            "revision": corrected.revision,
            "model_lesion_count": own.lesion_count,
            "model_lesion_volume_ml": own.lesion_volume_ml,
            "model_tumour_like_volume_ml": own.tumour_like_volume_ml,
        }
    }


def _cache_folder(settings: Settings) -> Path | None:
    """Keep what was measured about this processor in the user's cache (None) where there is a home to write to, else with the data."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home())
    return None if os.access(home, os.W_OK) else settings.data_dir / "engine"


def work_on_inference(settings: Settings, release: Release, owner: str | None = None) -> int:
    """Run a worker with one child until it is told to stop; gives its exit code. This process itself never loads the engine.

    Raises
    ------
    Misconfigured, Unavailable
        The case book is not at this version's revision, or away at the start.
    """
    app = make_app(settings)
    holder = make_owner(owner)
    open_book(settings).close()
    window = Window(release, irradiated_sentence(release.card))

    def prepare() -> Work:
        # An app of its own: the parent's broker connections must not be used on this side of the fork.
        desk = Desk(settings, release, make_app(settings), holder, window.show_engine)
        desk.warm_up()
        return desk.work

    child = WorkChild(prepare)
    child.start()

    @app.task(name=INFER)
    def infer(case_id: str) -> None:
        try:
            with window.at_work(case_id):
                child.work_on((INFER, case_id), settings.time_limit_s)
        except ChildLost as error:
            _charge(settings, case_id, holder, str(error))

    @app.task(name=COMPARE)
    def compare(case_id: str) -> None:
        with window.at_work(case_id):
            oversee(child, lambda: open_book(settings), case_id, settings.time_limit_s)

    @app.task(name=CORRECT)
    def correct(case_id: str) -> None:
        try:
            with window.at_work(case_id):
                child.work_on((CORRECT, case_id), settings.time_limit_s)
        except ChildLost as error:
            _charge(settings, case_id, holder, str(error))

    with present(BookBetweenForks(open_book(settings), child.forking), Counts(), {"inference": window.describe}):
        # One thread hands the cases over and waits; the child works.
        return work_through(app, "inference", INFERENCE_QUEUE, concurrency=1)


def _charge(settings: Settings, case_id: str, owner: str, reason: str) -> None:
    """Count the loss of the child against the case it held, or else its corrections; one it had not claimed is left to the sweep."""
    book = open_book(settings)
    try:
        lease = book.lease_of(case_id)
        if lease is not None and lease.owner == owner:
            book.fail(lease, reason)
            LOG.error("child lost: %s", reason, extra={"case_id": case_id})
        elif lease is None:
            book.correction_lost(case_id)
            LOG.error("child lost over a correction: %s", reason, extra={"case_id": case_id})
    except LeaseLost:
        pass
    except Unavailable as error:
        LOG.warning("lost child not noted, its lease lapses: %s", error, extra={"case_id": case_id})
    finally:
        book.close()
