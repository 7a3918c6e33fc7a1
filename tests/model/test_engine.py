"""Engines agree, a precision is served only after it was measured, and what is missing is named."""

from __future__ import annotations

import builtins
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest

from model import engine as engine_module
from model import installed, predict
from model.engine import EngineUnavailable, open_engine
from model.installed import demand_engine
from model.preprocess import Inputs
from model.release import Release
from model.volume import Volume
from tests.tiny import write_release

MakeRelease = Callable[..., Release]
HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def noise(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 1, *shape), dtype=np.float32)


def inputs_of(x: np.ndarray) -> Inputs:
    shape = x.shape[2:]
    return Inputs(x, np.eye(4), np.ones(shape, bool), Volume(np.zeros(shape), np.eye(4)), ())


def test_engines_agree_in_float32_on_several_shapes(make_release: MakeRelease) -> None:
    release = make_release()
    engines = [open_engine(release, name, "f32", threads=1) for name in ("openvino-cpu", "onnxruntime-cpu")]
    assert [(e.name, e.precision) for e in engines] == [("openvino-cpu", "f32"), ("onnxruntime-cpu", "f32")]
    for shape in [(32, 48, 32), (48, 32, 64), (16, 16, 16), (32, 48, 32)]:
        ours, theirs = (e.run(noise(shape)) for e in engines)
        assert ours.shape == (1, 3, *shape) and ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    engines[0].warm((64, 64, 64))
    with pytest.raises(ValueError, match="divisible by 16"):
        engines[0].run(noise((20, 32, 32)))


def test_results_are_the_caller_s_own(make_release: MakeRelease) -> None:
    engine = open_engine(make_release(), "openvino-cpu", "f32")
    first = engine.run(noise((16, 16, 16), 1))
    kept = first.copy()
    engine.run(noise((16, 16, 16), 2))
    np.testing.assert_array_equal(first, kept)


def test_compiled_shapes_are_let_go_before_memory_runs_out(make_release: MakeRelease, monkeypatch: pytest.MonkeyPatch) -> None:
    release = make_release()
    monkeypatch.setattr(engine_module, "COMPILED_BYTES", release.card.engine.bytes_per_voxel * (16**3 + 2 * 16**3))
    engine = open_engine(release, "openvino-cpu", "f32")
    for shape in [(16, 16, 16), (32, 16, 16), (16, 16, 16), (16, 16, 32)]:
        engine.warm(shape)
    assert list(engine._compiled) == [(16, 16, 16), (16, 16, 32)]  # type: ignore[attr-defined]


def test_bfloat16_is_measured_once_and_judged_by_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    release, cache = write_release(tmp_path / "a"), tmp_path / "cache"
    if not HAS_BF16:
        assert open_engine(release, "openvino-cpu", cache_folder=cache).precision == "f32"
        with pytest.raises(EngineUnavailable, match="no bfloat16"):
            open_engine(release, "openvino-cpu", "bf16", cache)
        return
    assert open_engine(release, "openvino-cpu", cache_folder=cache).precision == "bf16"
    assert len(list(cache.glob("precision-*.json"))) == 1

    def no_child(*_: Any, **__: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(subprocess, "run", no_child)
    assert open_engine(release, "openvino-cpu", "bf16", cache).precision == "bf16"
    strict = write_release(tmp_path / "b", limits=(1e-7, 1e-9))
    assert strict.card.sha256 == release.card.sha256
    assert open_engine(strict, "openvino-cpu", cache_folder=cache).precision == "f32"
    assert "bfloat16 is refused" in caplog.text
    with pytest.raises(EngineUnavailable, match="differs by"):
        open_engine(strict, "openvino-cpu", "bf16", cache)


@pytest.mark.skipif(not HAS_BF16, reason="this processor has no bfloat16")
def test_a_child_that_dies_refuses_the_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = write_release(tmp_path / "a")
    monkeypatch.setattr(engine_module.sys, "executable", "/bin/false")
    with pytest.raises(EngineUnavailable, match="could not be measured"):
        open_engine(release, "openvino-cpu", "bf16", tmp_path / "cache")
    assert not list(tmp_path.glob("cache/*"))


def test_what_is_missing_is_named(make_release: MakeRelease, monkeypatch: pytest.MonkeyPatch) -> None:
    release = make_release()
    with pytest.raises(EngineUnavailable, match="not known"):
        open_engine(release, "tensorflow")
    with pytest.raises(EngineUnavailable, match="f32 only"):
        open_engine(release, "onnxruntime-cpu", "bf16")
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name in ("openvino", "onnxruntime"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EngineUnavailable, match=r"leukoscope\[cpu\]"):
        open_engine(release)
    with pytest.raises(EngineUnavailable, match=r"leukoscope\[gpu\]"):
        open_engine(release, "onnxruntime-cuda")


# ONNX Runtime warns where a provider is asked for that it does not have
@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_a_gpu_build_without_a_device_gives_way_to_the_cpu_and_says_so(
    make_release: MakeRelease, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    release = make_release()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert open_engine(release, precision="f32").name == "openvino-cpu"
    assert "engine onnxruntime-cuda cannot be used here, trying the next: ONNX Runtime found no usable CUDA device" in caplog.text
    with pytest.raises(EngineUnavailable, match="no usable CUDA device"):
        open_engine(release, "onnxruntime-cuda", "f32")


def test_automatic_takes_the_engine_that_has_the_precision_asked_for(make_release: MakeRelease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "AUTOMATIC", ("onnxruntime-cpu", "openvino-cpu"))
    assert open_engine(make_release()).name == "onnxruntime-cpu"
    if HAS_BF16:
        assert open_engine(make_release(version="0.0.2"), precision="bf16").name == "openvino-cpu"


def test_a_cache_that_cannot_be_written_is_told_and_costs_nothing_else(
    make_release: MakeRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = subprocess.CompletedProcess([], 0, '{"largest": 0.001, "mean": 0.0001}\n', "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: said)
    (tmp_path / "file").write_text("in the way")
    assert engine_module._refusal(make_release(), "bf16", tmp_path / "file" / "cache") is None
    assert "cannot be kept" in caplog.text


def test_an_engine_that_can_never_be_had_is_told_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for choice in ("auto", "openvino-cpu", "onnxruntime-cpu"):
        demand_engine(choice)
    demand_engine("auto", "bf16")
    for choice, precision, reason in (
        ("tensorflow", "auto", "not known"),
        ("onnxruntime-cpu", "bf16", "f32 only"),
        ("onnxruntime-cuda", "auto", r"leukoscope\[gpu\]|NVIDIA driver"),
    ):
        if choice == "onnxruntime-cuda" and HAS_CUDA:
            continue
        with pytest.raises(EngineUnavailable, match=reason):
            demand_engine(choice, precision)
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda _: None)
    for choice in ("auto", "openvino-cpu"):
        with pytest.raises(EngineUnavailable, match=r"leukoscope\[cpu\]"):
            demand_engine(choice)


def test_tiles_give_what_the_whole_gives(make_release: MakeRelease, caplog: pytest.LogCaptureFixture) -> None:
    release = make_release()
    engine = open_engine(release, "onnxruntime-cpu", "f32")
    inputs = inputs_of(noise((112, 96, 80)))
    enough, short = (predict.choose_tile(inputs, engine, release.card, available) for available in (1e12, 100 * 72 * 80**2))
    whole = predict.probability(inputs, engine, release.card, enough)
    assert not caplog.text and predict.tile_flags(inputs, enough) == ()
    tiled = predict.probability(inputs, engine, release.card, short)
    assert "in tiles of" in caplog.text
    assert predict.tile_flags(inputs, short)[0].startswith("tiled: ")
    assert whole.shape == (3, 112, 96, 80) and whole.min() >= 0 and whole.max() <= 1
    np.testing.assert_allclose(tiled, whole, atol=2e-3)


@pytest.mark.parametrize("available", [1e12, 3e9, 1e9, 4e8, 1e6])
def test_tiles_fit_the_memory_and_the_network(available: float) -> None:
    tile = predict.tile_shape((192, 256, 224), 300, available, 32)
    assert all(t % 16 == 0 and t <= s for t, s in zip(tile, (192, 256, 224), strict=True))
    assert np.prod(tile) * 300 <= available or tile == (64, 64, 64)


def test_temperature_softens_lesion_probabilities_only(make_release: MakeRelease) -> None:
    release = make_release()
    engine = open_engine(release, "onnxruntime-cpu")
    softer = release.card.model_copy(update={"lesion": release.card.lesion.model_copy(update={"temperature": 2.0})})
    sharp, soft = (predict.probability(inputs_of(noise((32, 32, 32))), engine, card, (32, 32, 32)) for card in (release.card, softer))
    np.testing.assert_allclose(soft[0], 1 / (1 + np.sqrt(1 / sharp[0] - 1)), atol=1e-4)
    np.testing.assert_array_equal(soft[1:], sharp[1:])


def test_a_bias_moves_lesion_probabilities_only(make_release: MakeRelease) -> None:
    release = make_release()
    engine = open_engine(release, "onnxruntime-cpu")
    scaled = release.card.model_copy(update={"lesion": release.card.lesion.model_copy(update={"temperature": 2.0, "bias": -1.0})})
    plain, moved = (predict.probability(inputs_of(noise((32, 32, 32))), engine, card, (32, 32, 32)) for card in (release.card, scaled))
    np.testing.assert_allclose(np.log(moved[0] / (1 - moved[0])), np.log(plain[0] / (1 - plain[0])) / 2 - 1, atol=1e-3)
    np.testing.assert_array_equal(moved[1:], plain[1:])


def test_values_that_are_no_numbers_are_no_result(make_release: MakeRelease) -> None:
    release = make_release()
    x = noise((32, 32, 32))
    x[0, 0, 16, 16, 16] = np.nan
    with pytest.raises(predict.BrokenOutput, match="no numbers"):
        predict.probability(inputs_of(x), open_engine(release, "onnxruntime-cpu"), release.card)


def test_a_container_s_limit_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "CGROUP", tmp_path)
    unlimited = predict.free_memory()
    (tmp_path / "memory.max").write_text("1000000000\n")
    (tmp_path / "memory.current").write_text("999000000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 400000\n")
    own = predict.psutil.Process().memory_info().rss
    assert predict.free_memory() == pytest.approx(own + 1_400_000, abs=5e6)
    (tmp_path / "memory.max").write_text("max\n")
    assert predict.free_memory() == pytest.approx(unlimited, rel=0.5)
