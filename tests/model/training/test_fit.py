from __future__ import annotations

import json

import pytest
import torch

from model.training import fit as fitting
from model.training.augment import Painting
from model.training.configuration import Schedule
from model.training.fit import fit, load_network
from model.training.network import AttentionVNet

SCHEDULE = Schedule(
    steps=9, learning_rate=0.01, warm_up=2, crop=(32, 32, 32), mixture={"target": 1.0}, painting={"target": Painting(lesions=0.5)},
    checkpoint_every=3, large_crop=(48, 32, 32), large_every=4, large_steps=1,
)  # fmt: skip


class Killed(Exception):
    pass


def _network(config):
    torch.manual_seed(5)
    return AttentionVNet(config)


def test_a_killed_run_goes_on_says_so_and_ends_where_an_unbroken_one_ends(tmp_path, tiny_config, example, bank, monkeypatch):
    whole = fit(_network(tiny_config), [example], bank, SCHEDULE, tmp_path / "whole", 7, lambda _: None)
    taken = fitting._step

    def dies(*arguments):
        dies.left -= 1
        if dies.left < 0:
            raise Killed
        return taken(*arguments)

    dies.left = 7
    monkeypatch.setattr(fitting, "_step", dies)
    with pytest.raises(Killed):
        fit(_network(tiny_config), [example], bank, SCHEDULE, tmp_path / "cut", 7, lambda _: None)
    monkeypatch.setattr(fitting, "_step", taken)
    said: list[str] = []
    resumed = fit(_network(tiny_config), [example], bank, SCHEDULE, tmp_path / "cut", 7, said.append)
    assert said == ["cut: an earlier run was interrupted; going on from step 6"]
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3, 4, 5, 6, 6, 7, 8]


def test_a_half_written_checkpoint_does_not_count(tmp_path, tiny_config, example, bank):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "last.partial").write_bytes(b"half")
    fit(_network(tiny_config), [example], bank, SCHEDULE.model_copy(update={"steps": 1}), folder, 7, lambda _: None)
    assert isinstance(load_network(folder / "final.pt"), AttentionVNet)


def test_a_finished_run_is_not_run_again(tmp_path, tiny_config, example, bank):
    short = SCHEDULE.model_copy(update={"steps": 1})
    said: list[str] = []
    first = fit(_network(tiny_config), [example], bank, short, tmp_path / "run", 7, said.append)
    again = fit(_network(tiny_config), [example], bank, short, tmp_path / "run", 7, said.append)
    assert said == ["run: finished before, nothing to do"]
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_large_crops_come_now_and_then_and_at_the_end():
    sizes = [fitting.crop_size(SCHEDULE, step) for step in range(9)]
    assert [size == (48, 32, 32) for size in sizes] == [False, False, False, True, False, False, False, True, True]


def test_the_network_learns(tmp_path, tiny_config, example, bank):
    schedule = SCHEDULE.model_copy(update={"steps": 40, "large_crop": None, "checkpoint_every": 100})
    fit(_network(tiny_config), [example], bank, schedule, tmp_path / "run", 3, lambda _: None)
    losses = [json.loads(line)["brain"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert sum(losses[-8:]) < 0.6 * sum(losses[:8])
