"""What a run tells while it goes: a bar with the time left, `log.jsonl`, and TensorBoard for those who ask for it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Watch = Callable[[int, float], None]


class Journal:
    """The record of one run; a run that goes on appends to it. Who watches many runs shows them: then there is no bar for this one.

    Raises
    ------
    ModuleNotFoundError
        TensorBoard is asked for and tensorboardX is not installed.
    """

    def __init__(self, folder: Path, steps: range, tensorboard: bool, watch: Watch | None = None) -> None:
        self._watch = watch
        self._steps = steps
        self._board = _open_board(folder / "tensorboard", steps.start) if tensorboard else None
        self._log = (folder / "log.jsonl").open("a", buffering=1)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._task = self._progress.add_task(folder.name, total=steps.stop, completed=steps.start, loss="-")

    def __enter__(self) -> Self:
        if self._watch is None:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._watch is None:
            self._progress.stop()
        self._log.close()
        if self._board is not None:
            self._board.close()

    def steps(self) -> Iterator[int]:
        """The steps to do; the bar follows."""
        for step in self._steps:
            yield step
            self._progress.advance(self._task)

    def write(self, step: int, figures: dict[str, float]) -> None:
        """One line of `log.jsonl`; what is not finite is null there."""
        self._progress.update(self._task, loss=f"{figures['loss']:.3f}")
        if self._watch is not None:
            self._watch(step, figures["loss"])
        known = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        self._log.write(json.dumps({"step": step, **known}) + "\n")
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(name, value, step)


def _open_board(folder: Path, first: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--tensorboard needs the package tensorboardX: pip install 'leukoscope[train]'", name=error.name
        ) from None
    return SummaryWriter(str(folder), purge_step=first)
