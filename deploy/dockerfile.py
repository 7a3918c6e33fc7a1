"""Reads the Dockerfile: stages, instructions, variables, and what .dockerignore lets through. For the check of the image and its tests."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = frozenset(
    {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}
)
_PAIR = re.compile(r'([A-Za-z0-9_.-]+)=("(?:[^"\\]|\\.)*"|\S*)')
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class DockerfileError(Exception):
    """A line that cannot be read; the message names it."""


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continuation lines joined; `line` is where it begins."""

    name: str
    text: str
    line: int

    @property
    def flags(self) -> dict[str, str]:
        """The ``--name=value`` in front of the arguments."""
        found = {}
        for word in self.text.split():
            if not word.startswith("--"):
                break
            name, _, value = word[2:].partition("=")
            found[name] = value
        return found

    @property
    def arguments(self) -> list[str]:
        """The words after the flags."""
        return self.text.split()[len(self.flags) :]

    @property
    def exec_form(self) -> list[str] | None:
        """The words of a JSON array (of HEALTHCHECK: behind its CMD), or None for the shell form."""
        text = " ".join(self.arguments).removeprefix("CMD ")
        try:
            words = json.loads(text)
        except json.JSONDecodeError:
            return None
        return [str(word) for word in words] if isinstance(words, list) else None

    @property
    def pairs(self) -> dict[str, str]:
        """The ``name=value`` of ENV, LABEL and ARG."""
        return {name: value.strip('"') for name, value in _PAIR.findall(self.text)}


@dataclass
class Stage:
    """One FROM and what follows it."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def last(self, name: str) -> Instruction | None:
        """The last instruction of that name, or None."""
        return next((one for one in reversed(self.instructions) if one.name == name), None)


@dataclass(frozen=True)
class Dockerfile:
    """The arguments before the first FROM, and the stages in order."""

    arguments: Mapping[str, str]
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage:
        """Give the stage of that name; KeyError without one."""
        return {stage.name: stage for stage in self.stages}[name]

    def lineage(self, name: str) -> list[Stage]:
        """The stages that `name` is made FROM, oldest first, itself last."""
        names = {stage.name for stage in self.stages}
        stage = self.stage(name)
        return [*(self.lineage(stage.base) if stage.base in names else []), stage]

    def last(self, target: str, name: str) -> Instruction | None:
        """The instruction that counts in the image of `target`: the last one along its lineage."""
        found = [stage.last(name) for stage in self.lineage(target)]
        return next((one for one in reversed(found) if one is not None), None)

    def environment(self, target: str) -> dict[str, str]:
        """The variables that the image of `target` sets."""
        values: dict[str, str] = {}
        for stage in self.lineage(target):
            for one in stage.instructions:
                if one.name == "ENV":
                    values.update({name: expand(value, values) for name, value in one.pairs.items()})
        return values


def read_dockerfile(path: Path, arguments: Mapping[str, str] | None = None) -> Dockerfile:
    """Read a Dockerfile; `arguments` are build arguments that replace the defaults. Raises DockerfileError."""
    values: dict[str, str] = {}
    stages: list[Stage] = []
    for one in _instructions(path):
        if one.name not in KNOWN:
            raise DockerfileError(f"line {one.line}: {one.name} is not understood here")
        if one.name == "FROM":
            words = one.arguments
            name = words[2] if len(words) == 3 and words[1].upper() == "AS" else str(len(stages))
            stages.append(Stage(name, expand(words[0], values)))
        elif not stages:
            values.update(one.pairs | {name: value for name, value in (arguments or {}).items() if name in one.pairs})
        else:
            stages[-1].instructions.append(one)
    return Dockerfile(values, tuple(stages))


def _instructions(path: Path) -> Iterator[Instruction]:
    joined, began = "", 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip().startswith("#") or (not line.strip() and not joined):
            continue
        began = began or number
        if line.rstrip().endswith("\\"):
            joined += line.rstrip()[:-1]
            continue
        name, _, text = (joined + line).strip().partition(" ")
        yield Instruction(name.upper(), text.strip(), began)
        joined, began = "", 0
    if joined:
        raise DockerfileError(f"line {began}: the file ends in the middle of an instruction")


def expand(text: str, values: Mapping[str, str]) -> str:
    """Put in variables; one without a value is empty, as in a build."""
    return _VARIABLE.sub(lambda found: values.get(found[1] or found[2], ""), text)


def context_files(root: Path) -> Iterator[Path]:
    """Walk over the files of the build context, relative to `root`: what .dockerignore leaves (the last rule that fits decides)."""
    rules = [line.strip() for line in (root / ".dockerignore").read_text(encoding="utf-8").splitlines()]
    rules = [rule for rule in rules if rule and not rule.startswith("#")]
    kept_tops = {rule[1:].split("/")[0] for rule in rules if rule.startswith("!")}
    for top in sorted(kept_tops):
        paths = [root / top] if (root / top).is_file() else sorted((root / top).rglob("*"))
        for path in paths:
            relative = path.relative_to(root)
            if path.is_file() and not _is_ignored(relative, rules):
                yield relative


def _is_ignored(path: Path, rules: list[str]) -> bool:
    ignored = False
    for rule in rules:
        keep, pattern = rule.startswith("!"), rule.lstrip("!")
        if any(_fits(part, pattern) for part in (path, *path.parents) if part != Path()):
            ignored = not keep
    return ignored


def _fits(path: Path, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(path.name, pattern[3:])
    return len(path.parts) == len(Path(pattern).parts) and fnmatch.fnmatchcase(path.as_posix(), pattern)
