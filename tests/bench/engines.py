"""One pass of the release's network over an ordinary head, by every engine, beside PyTorch and MONAI's sliding window."""

from __future__ import annotations

import numpy as np

from model.engine import EngineUnavailable, open_engine
from model.release import Release
from tests.bench.measuring import median_seconds


def measure(release: Release) -> dict[str, object]:
    shapes = release.card.input.shapes
    shape = shapes[(len(shapes) - 1) // 2]
    x = np.random.default_rng(0).standard_normal((1, 1, *shape)).astype(np.float32)
    seconds: dict[str, object] = {"input": " × ".join(map(str, shape))}
    for choice, precision in (("openvino-cpu", "bf16"), ("openvino-cpu", "f32"), ("onnxruntime-cpu", "f32")):
        try:
            engine = open_engine(release, choice, precision)
        except EngineUnavailable as error:
            seconds[f"{choice} {precision}"] = str(error)
            continue
        seconds[f"{choice} {precision}"] = median_seconds(lambda engine=engine: engine.run(x))
    return seconds | _torch(release, x)


def _torch(release: Release, x: np.ndarray) -> dict[str, object]:
    """The same architecture with fresh weights: what they are does not change the time."""
    import torch
    from monai.inferers import sliding_window_inference

    from model.training.network import AttentionVNet, NetworkConfig

    network = AttentionVNet(NetworkConfig.model_validate(release.card.architecture.model_dump(exclude={"name", "members"}))).eval()
    tensor = torch.from_numpy(x)
    with torch.inference_mode():
        return {
            "PyTorch f32": median_seconds(lambda: network(tensor)),
            "MONAI sliding window 96³, 0.25 overlap, f32": median_seconds(
                lambda: sliding_window_inference(tensor, (96, 96, 96), 1, network, overlap=0.25), repeats=1
            ),
        }
