"""Only weights that are their card's are served, and the newest is the default."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.release import ReleaseMismatch, available, find, newest
from tests.tiny import write_release


def test_newest_is_by_version_not_by_name(tmp_path: Path) -> None:
    for version in ("1.9.0", "1.10.0", "1.10.0-rc1"):
        write_release(tmp_path / version, version=version)
    assert newest(tmp_path).card.version == "1.10.0"
    assert [folder.name for folder in available(tmp_path)] == ["1.9.0", "1.10.0-rc1", "1.10.0"]
    assert find(None, tmp_path).card.version == "1.10.0"
    for name in ("1.9.0", "tiny 1.9.0", "tiny-1.9.0", str(tmp_path / "1.9.0")):
        assert find(name, tmp_path).card.version == "1.9.0"


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ReleaseMismatch, match="no release in"):
        newest(tmp_path)
    write_release(tmp_path / "a", version="1.0.0")
    with pytest.raises(ReleaseMismatch, match="there are: a"):
        find("2.0.0", tmp_path)


def test_changed_weights_and_broken_cards_are_refused(tmp_path: Path) -> None:
    release = write_release(tmp_path / "a", version="1.0.0")
    release.weights.write_bytes(release.weights.read_bytes() + b"\0")
    with pytest.raises(ReleaseMismatch, match="SHA-256"):
        newest(tmp_path)
    (tmp_path / "a" / "card.json").write_text("{")
    with pytest.raises(ReleaseMismatch):
        find("a", tmp_path)
