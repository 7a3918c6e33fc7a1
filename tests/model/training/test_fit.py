from __future__ import annotations

import itertools
import json
import sys

import pytest
import torch

from model.training import fit as fitting
from model.training.augment import Painting
from model.training.configuration import Schedule
from model.training.draw import Pool, crop_size
from model.training.fit import CannotTrain, fit, load_network, start_network, write_weights
from model.training.network import AttentionVNet, NetworkConfig
from model.training.optimise import learning_rate

SCHEDULE = Schedule(
    steps=9, learning_rate=0.01, warm_up=2, crop=(32, 32, 32), mixture={"target": 1.0}, painting={"target": Painting(lesions=0.5)},
    checkpoint_every=3, large_crop=(48, 32, 32), large_every=4, large_steps=1,
)  # fmt: skip


class Killed(Exception):
    pass


def _network(config):
    torch.manual_seed(5)
    return AttentionVNet(config)


@pytest.mark.parametrize(("norm", "statistics"), [("instance", 0), ("batch", 4)])
def test_a_killed_run_goes_on_says_so_and_ends_where_an_unbroken_one_ends(
    tmp_path, tiny_config, example, bank, monkeypatch, norm, statistics
):
    config = tiny_config.model_copy(update={"norm": norm})
    schedule = SCHEDULE.model_copy(update={"statistics_steps": statistics})
    whole = fit(_network(config), [example], bank, schedule, tmp_path / "whole", 7, lambda _: None)
    taken = fitting._step

    def dies(*arguments):
        dies.left -= 1
        if dies.left < 0:
            raise Killed
        return taken(*arguments)

    dies.left = 7
    monkeypatch.setattr(fitting, "_step", dies)
    with pytest.raises(Killed):
        fit(_network(config), [example], bank, schedule, tmp_path / "cut", 7, lambda _: None)
    monkeypatch.setattr(fitting, "_step", taken)
    said: list[str] = []
    resumed = fit(_network(config), [example], bank, schedule, tmp_path / "cut", 7, said.append)
    assert said == ["cut: an earlier run was interrupted; going on from step 6"]
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3, 4, 5, 6, 6, 7, 8]


def test_batch_norm_learns_its_statistics_first_and_serves_with_them_from_then_on(tmp_path, tiny_config, example, bank, monkeypatch):
    network = _network(tiny_config.model_copy(update={"norm": "batch"}))
    with pytest.raises(CannotTrain, match="`statistics_steps`"):
        fit(network, [example], bank, SCHEDULE, tmp_path / "none", 7, lambda _: None)
    seen = []
    taken = fitting._step

    def watched(*arguments):
        outcome = taken(*arguments)
        seen.append(network.first.layers[0][1].running_mean.clone())
        return outcome

    monkeypatch.setattr(fitting, "_step", watched)
    fit(network, [example], bank, SCHEDULE.model_copy(update={"statistics_steps": 4}), tmp_path / "some", 7, lambda _: None)
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(seen)]
    assert moved == [True] * 3 + [False] * 5
    kept = start_network(tmp_path / "some" / "final.pt", network.config)
    fit(kept, [example], bank, SCHEDULE, tmp_path / "on", 7, lambda _: None)  # it has them: none need be learnt again
    assert load_network(tmp_path / "on" / "final.pt").config.norm == "none"


def test_a_half_written_checkpoint_does_not_count(tmp_path, tiny_config, example, bank):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "last.pt.partial").write_bytes(b"half")
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
    sizes = [crop_size(SCHEDULE, step) for step in range(9)]
    assert [size == (48, 32, 32) for size in sizes] == [False, False, False, True, False, False, False, True, True]


def test_the_network_learns(tmp_path, tiny_config, example, bank):
    schedule = SCHEDULE.model_copy(update={"steps": 80, "large_crop": None, "checkpoint_every": 100})
    fit(_network(tiny_config), [example], bank, schedule, tmp_path / "run", 3, lambda _: None)
    losses = [json.loads(line)["brain"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert sum(losses[-8:]) < 0.6 * sum(losses[:8])


def _moved(before, network):
    """Which of first, down, up and heads moved at all."""
    after = network.state_dict()
    return {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}


def test_what_is_not_released_yet_does_not_move_and_then_it_does(tmp_path, tiny_config, example, bank):
    staged = SCHEDULE.model_copy(update={"steps": 2, "head_steps": 2, "decoder_steps": 2, "checkpoint_every": 100})
    moved = []
    for steps in (2, 4, 6):
        network = _network(tiny_config)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        averaged = fit(network, [example], bank, staged.model_copy(update={"steps": steps}), tmp_path / str(steps), 7, lambda _: None)
        moved.append(_moved(before, network))
        still = {name.split(".")[0] for name in before} - moved[-1]
        assert all(torch.equal(averaged[name], value) for name, value in before.items() if name.split(".")[0] in still)
    assert moved == [{"heads"}, {"heads", "up"}, {"heads", "up", "first", "reduce", "down"}]


def test_a_staged_run_that_is_killed_ends_where_an_unbroken_one_ends(tmp_path, tiny_config, example, bank, monkeypatch):
    staged = SCHEDULE.model_copy(update={"steps": 7, "head_steps": 2, "decoder_steps": 2, "large_crop": None})
    whole = fit(_network(tiny_config), [example], bank, staged, tmp_path / "whole", 7, lambda _: None)
    taken = fitting.release_layers

    def dies(network, schedule, step):
        if step == 4:
            raise Killed
        taken(network, schedule, step)

    monkeypatch.setattr(fitting, "release_layers", dies)
    with pytest.raises(Killed):
        fit(_network(tiny_config), [example], bank, staged, tmp_path / "cut", 7, lambda _: None)
    monkeypatch.setattr(fitting, "release_layers", taken)
    resumed = fit(_network(tiny_config), [example], bank, staged, tmp_path / "cut", 7, lambda _: None)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_the_encoder_learns_at_its_share_of_the_rate(tiny_network):
    schedule = SCHEDULE.model_copy(update={"encoder_rate": 0.1})
    optimiser = fitting.make_optimiser(tiny_network, schedule)
    fitting.set_rates(optimiser, schedule, 5)
    encoder, rest = optimiser.param_groups
    assert encoder["lr"] == pytest.approx(0.1 * rest["lr"])
    assert rest["lr"] == pytest.approx(0.01 * learning_rate(schedule, 5))
    assert {id(p) for p in encoder["params"]} == {id(p) for p in tiny_network.encoder_parameters()}


def test_fresh_heads_start_anew_and_all_else_goes_on(tmp_path, tiny_config):
    trained = _network(tiny_config)
    with torch.no_grad():
        for head in trained.heads:
            head.weight.fill_(7.0)
    write_weights(tmp_path / "final.pt", tiny_config, trained.state_dict(), 1)
    begun = start_network(tmp_path / "final.pt", tiny_config, ("lesion",))
    for head in begun.heads:
        assert (head.weight[0].abs() < 1).all()
        assert head.bias[0] == -2
        assert (head.weight[1:] == 7).all()
    assert all(torch.equal(value, begun.state_dict()[name]) for name, value in trained.state_dict().items() if "heads" not in name)


def test_a_checkpoint_of_other_heads_gives_those_it_has(tmp_path):
    source = NetworkConfig(widths=(4, 4, 8), heads=("tumour", "brain"))
    trained = _network(source)
    with torch.no_grad():
        trained.heads[0].bias.copy_(torch.tensor([5.0, 6.0]))
    write_weights(tmp_path / "final.pt", source, trained.state_dict(), 1)
    begun = start_network(tmp_path / "final.pt", source.model_copy(update={"heads": ("lesion", "brain")}))
    assert begun.heads[0].bias.tolist() == [-2.0, 6.0]


def test_a_checkpoint_of_another_network_is_refused_by_what_differs(tmp_path, tiny_config):
    write_weights(tmp_path / "final.pt", tiny_config, _network(tiny_config).state_dict(), 1)
    with pytest.raises(CannotTrain, match=r"widths \(4, 4, 8\) there, \(4, 8, 8\) here"):
        start_network(tmp_path / "final.pt", NetworkConfig(widths=(4, 8, 8)))
    with pytest.raises(CannotTrain, match="`fresh_heads` names leison"):
        start_network(tmp_path / "final.pt", tiny_config, ("leison",))


def test_a_network_of_one_head_learns_from_its_own_labels(tmp_path, example, bank):
    network = _network(NetworkConfig(widths=(4, 4), heads=("brain",)))
    fit(network, [example], bank, SCHEDULE.model_copy(update={"steps": 30, "large_crop": None}), tmp_path / "run", 3, lambda _: None)
    losses = [json.loads(line)["brain"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert sum(losses[-6:]) < 0.7 * sum(losses[:6])


def test_steps_without_a_finite_gradient_are_counted_and_at_last_end_the_run(tmp_path, tiny_config, example, bank):
    network = _network(tiny_config)
    with torch.no_grad():
        network.heads[0].bias.fill_(float("nan"))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    schedule = SCHEDULE.model_copy(update={"steps": 30, "crop": (16, 16, 16), "large_crop": None})
    with pytest.raises(CannotTrain, match="no finite gradient in 20 steps in a row"):
        fit(network, [example], bank, schedule, tmp_path / "run", 7, lambda _: None)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == list(range(1, 21))
    assert lines[-1]["loss"] is None
    assert not (tmp_path / "run" / "last.pt").exists()
    assert all(torch.equal(value, network.state_dict()[name]) or name == "heads.0.bias" for name, value in before.items())


def test_what_does_not_fit_into_memory_names_the_settings_to_turn(tmp_path, tiny_config, example, bank):
    schedule = SCHEDULE.model_copy(update={"crop": (32768, 32768, 32768)})
    with pytest.raises(CannotTrain, match=r"`batch` \(now 1\), `crop` \(now \[32768.*`widths` \(now \[4, 4, 8\]\)"):
        fit(_network(tiny_config), [example], bank, schedule, tmp_path / "run", 7, lambda _: None)


def test_a_batch_stacks_crops_that_differ(example, bank):
    crop = Pool([example], bank, SCHEDULE.model_copy(update={"batch": 2}), torch.device("cpu")).draw(0)
    assert crop.image.shape == (2, 1, 32, 32, 32)
    assert crop.labels.shape == (2, 3, 32, 32, 32)
    assert not torch.equal(crop.image[0], crop.image[1])


def test_a_mixture_without_volumes_says_so(tmp_path, tiny_config, example, bank):
    said: list[str] = []
    both = SCHEDULE.model_copy(update={"steps": 1, "mixture": {"target": 0.7, "tumour": 0.3}})
    fit(_network(tiny_config), [example], bank, both, tmp_path / "run", 7, said.append)
    assert said == ["`mixture` names kinds without a volume, which are left out: tumour"]
    with pytest.raises(CannotTrain, match="no volume to train on is of the kinds in `mixture`: tumour"):
        fit(_network(tiny_config), [example], bank, both.model_copy(update={"mixture": {"tumour": 1.0}}), tmp_path / "none", 7, said.append)


def test_tensorboard_gets_the_figures_of_every_step_or_says_what_to_install(tmp_path, tiny_config, example, bank, monkeypatch):
    short = SCHEDULE.model_copy(update={"steps": 2, "large_crop": None})
    fit(_network(tiny_config), [example], bank, short, tmp_path / "run", 7, lambda _: None, tensorboard=True)
    written = b"".join(path.read_bytes() for path in (tmp_path / "run" / "tensorboard").iterdir())
    assert written.count(b"lesion") == 2
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ModuleNotFoundError, match="needs the package tensorboardX: pip install"):
        fit(_network(tiny_config), [example], bank, short, tmp_path / "without", 7, lambda _: None, tensorboard=True)
