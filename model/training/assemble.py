"""All examples of a configuration, prepared once and kept in a cache folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch

from model.release import InputPreparation
from model.training.configuration import Data, Source
from model.training.examples import Example, Truth, make_example, phantom_truth, read_truth, with_head
from model.training.layouts import Case, UnusableCase, find_cases, open_ms_shapes
from model.training.paint import Bank, load_bank
from model.training.site_bank import anatomical_prior
from model.training.whole import whole_file

Variant = tuple[str, str, Callable[[], Truth]]
PREPARATION = "2"  # changes with what an example holds, so that no older one is taken from the cache
PHANTOM_SPACINGS = ((1.0, 1.0, 1.0), (0.9, 0.9, 3.0), (1.0, 1.0, 1.0), (0.8, 0.8, 5.0), (1.2, 1.0, 1.0), (4.0, 0.9, 0.9))


class Scans(Protocol):
    """What a configuration says of its volumes."""

    @property
    def seed(self) -> int:
        """Of synthetic heads."""

    @property
    def data(self) -> Data:
        """Where the scans lie."""

    @property
    def input(self) -> InputPreparation:
        """How a volume becomes the network's input."""


def read_bank(config: Scans, without: frozenset[Path] = frozenset()) -> Bank:
    """The shapes to paint with, and where lesions occur; by anatomy and without shapes where no folder of masks is given.

    Parameters
    ----------
    without : mask files (resolved) that are not among the shapes, beside those of the patients the configuration leaves out
    """
    if config.data.shapes is None:
        return anatomical_prior()
    shapes = open_ms_shapes(config.data.root / config.data.shapes)
    kept = {name: path for name, path in shapes.items() if name not in config.data.shapes_left_out and path.resolve() not in without}
    if not kept:
        raise UnusableCase(f"{config.data.root / config.data.shapes}: no lesion mask is left to paint with")
    return load_bank(kept)


def training_cases(config: Scans, source: Source) -> list[Case]:
    """The cases of one source that may be trained on."""
    cases = find_cases(source.layout, config.data.root / source.folder)
    chosen = [case for case in cases if source.use is None or case.patient in source.use]
    return [case for case in chosen if case.patient not in source.held_out]


def held_out_cases(config: Scans) -> list[Case]:
    """The cases nothing is trained on."""
    found: list[Case] = []
    for source in config.data.sources:
        cases = find_cases(source.layout, config.data.root / source.folder)
        found += [case for case in cases if case.patient in source.held_out]
    return found


def _variants(config: Scans) -> Iterator[Variant]:
    """Name, kind and a way to read every training volume."""
    for source in config.data.sources:
        for case in training_cases(config, source):
            yield case.id, source.kind, lambda case=case: read_truth(case)  # type: ignore[misc]
            for copy in range(source.heads):
                seed = int.from_bytes(hashlib.sha256(f"{config.seed}:{case.id}:{copy}".encode()).digest()[:4], "big")
                yield f"{case.id}+head{copy}", source.kind, lambda case=case, seed=seed: with_head(read_truth(case), seed)  # type: ignore[misc]
    for index, seed in enumerate(config.data.phantom_seeds):
        yield f"phantom-{seed}", "phantom", lambda index=index, seed=seed: read_phantom(seed, index)  # type: ignore[misc]


def read_phantom(seed: int, index: int) -> Truth:
    """A whole-head phantom; spacing and obliquity vary with the index."""
    from model.phantom import make_phantom

    spacing = PHANTOM_SPACINGS[index % len(PHANTOM_SPACINGS)]
    field_mm = (190.0, 240.0, 240.0)
    shape = (int(field_mm[0] / spacing[0]), int(field_mm[1] / spacing[1]), int(field_mm[2] / spacing[2]))
    phantom = make_phantom(seed=seed, shape=shape, spacing_mm=spacing)
    return phantom_truth(phantom, f"phantom-{seed}")


def load_examples(
    config: Scans, bank: Bank, say: Callable[[str], None], only: tuple[str, ...] = (), at_most: int | None = None
) -> list[Example]:
    """Prepare (or read from the cache) every training volume; `only` keeps some kinds, `at_most` so many of each, evenly."""
    examples = []
    variants = [variant for variant in _variants(config) if not only or variant[1] in only]
    for name, kind, read in variants if at_most is None else _evenly(variants, at_most):
        path = _cache_path(config, name)
        if path is not None and path.exists():
            example = _restore(path)
        else:
            say(f"prepare {name}")
            example = make_example(read(), kind, config.input, bank)
            if path is not None:
                _keep(example, path)
        if not example.brain_known:
            say(f"{name}: the brain mask that came with it holds the head (over 2 l), so the brain head learns nothing from it")
        examples.append(example)
    return examples


def _evenly(variants: list[Variant], at_most: int) -> list[Variant]:
    kept = []
    for kind in dict.fromkeys(kind for _, kind, _ in variants):
        same = [variant for variant in variants if variant[1] == kind]
        count = min(at_most, len(same))
        kept += [same[index * len(same) // count] for index in range(count)]
    return kept


def _cache_path(config: Scans, name: str) -> Path | None:
    if config.data.cache is None:
        return None
    config.data.cache.mkdir(parents=True, exist_ok=True)
    prior = "" if config.data.shapes is not None else "anatomical"
    told = config.input.model_dump_json() + json.dumps(config.data.shapes_left_out) + prior + PREPARATION
    key = hashlib.sha256(told.encode()).hexdigest()[:8]
    return config.data.cache / f"{name}-{key}.pt"


def _keep(example: Example, path: Path) -> None:
    with whole_file(path) as stream:
        torch.save({**example.__dict__, "white": (example.white.mean, example.white.sd)}, stream)


def _restore(path: Path) -> Example:
    from model.training.paint import WhiteMatter

    saved = torch.load(path, weights_only=True)
    return Example(**{**saved, "white": WhiteMatter(*saved["white"])})
