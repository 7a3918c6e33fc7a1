"""What the checks of the deployment share: the program's commands and settings, and the files as data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from service.__main__ import APP
from service.settings import CONFIG, PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def demand_command() -> Callable[[Sequence[str]], None]:
    """Fail unless `leukoscope WORDS…` is a command line that the program understands."""
    program: Any = typer.main.get_command(APP)

    def demand(words: Sequence[str]) -> None:
        command, rest = program, list(words)
        while hasattr(command, "commands"):
            assert rest, f"{words}: a command is missing"
            name = rest.pop(0)
            assert name in command.commands, f"{words}: {name} is none of {sorted(command.commands)}"
            command = command.commands[name]
        assert command is not program, "the program has no commands"
        command.make_context(command.name, rest)

    return demand


@pytest.fixture(scope="session")
def demand_settings() -> Callable[[Sequence[str]], None]:
    """Fail unless every LEUKOSCOPE_ variable among the names is a setting."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {CONFIG}

    def demand(names: Sequence[str]) -> None:
        unknown = {name for name in names if name.startswith(PREFIX)} - known
        assert not unknown, f"no settings: {sorted(unknown)}"

    return demand
