"""Files that no row names: an instance whose row could not be written, results of a worker that lost its lease.

They are swept only when asked for, and when a day old: where a database was lost or restored from an old back-up, every file looks like
that, and `leukoscope index rebuild` needs them. Which study they belong to is not known (a damaged file may say anything), so whoever
would write a row that could name one waits while they are looked at once more and unlinked.
"""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.records import Book
from service.store import INSTANCES, OUTPUTS, Store, series_key

LOG = logging.getLogger(__name__)
ORPHAN_AGE_S: Final = 24 * 3600.0
_AT_ONCE: Final = 200  # files unlinked in one transaction: others wait for it


@dataclass(frozen=True)
class Orphans:
    """Files a day old that no row names: instances, and results by the case they were made for."""

    instances: list[str]
    outputs: dict[str, list[str]]
    size_bytes: int

    @property
    def files(self) -> int:
        """How many there are."""
        return sum(map(len, (self.instances, *self.outputs.values())))


def find_orphans(book: Book, store: Store, now_s: float | None = None) -> Orphans:
    """Look through the whole store. Changes nothing. Raises Unavailable."""
    before_s = (time.time() if now_s is None else now_s) - ORPHAN_AGE_S
    cases_of: dict[str, list[str]] = defaultdict(list)
    for case_id, series_uid in book.every_series():
        cases_of[series_key(series_uid)].append(case_id)
        cases_of[case_id].append(case_id)
    found: dict[str, dict[str, list[str]]] = {INSTANCES: {}, OUTPUTS: {}}
    size_bytes = 0
    for kind, by_folder in found.items():
        for folder in _folders(store.root / kind):
            sizes = {store.relative(path): size for path, size in _old_files(folder, before_s)}
            named = book.files_of_cases(cases_of[folder.name]) if sizes and folder.name in cases_of else set()
            left = [path for path in sizes if path not in named]
            for some in batches(left) if kind == OUTPUTS else ():
                named |= book.named_outputs(some)
            if left := [path for path in left if path not in named]:
                by_folder[folder.name] = left
                size_bytes += sum(sizes[path] for path in left)
    return Orphans([path for paths in found[INSTANCES].values() for path in paths], found[OUTPUTS], size_bytes)


def remove_orphans(orphans: Orphans, book: Book, store: Store) -> None:
    """Remove those that no row names meanwhile. Raises Unavailable."""
    for some in batches(orphans.instances):
        book.without_rows(None, some, store.remove)
    for case_id, paths in orphans.outputs.items():
        for some in batches(paths):
            book.without_output_rows(case_id, None, some, store.remove)
    LOG.info("files without a row removed", extra={"files": orphans.files, "bytes": orphans.size_bytes})


def _folders(root: Path) -> Iterator[Path]:
    with os.scandir(root) as entries:
        yield from (Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))


def _old_files(folder: Path, before_s: float) -> list[tuple[Path, int]]:
    found = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False) and entry.stat().st_mtime < before_s:
                    found.append((Path(entry.path), entry.stat().st_size))
    return found


def batches(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    """Cut into what is unlinked in one transaction."""
    for start in range(0, len(paths), _AT_ONCE):
        yield paths[start : start + _AT_ONCE]
