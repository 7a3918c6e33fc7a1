"""A file is there whole, or as it was before."""

from __future__ import annotations

import os

import pytest

from model.training.whole import whole_file


def test_a_block_that_breaks_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "deep" / "x.json"
    with whole_file(path) as stream:
        stream.write(b"old")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), whole_file(path) as stream:
        stream.write(b"half of the ne")
        stream.flush()
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    with whole_file(path) as stream:
        stream.write(b"new")
    assert path.read_bytes() == b"new" and [one.name for one in path.parent.iterdir()] == ["x.json"]


def test_it_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "x", []

    def fsync(descriptor):
        seen.append((os.fstat(descriptor).st_size, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with whole_file(path) as stream:
        stream.write(b"12345")
    assert seen == [(5, False)]
