"""The network of a trial through the service's own path; what it found is kept, so that a resumed experiment need not ask again."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from model.release import Card
from model.training.card import START_DEFINITION
from model.training.evaluate import Served, serve
from model.training.examples import Truth
from model.training.network import HEADS, AttentionVNet
from model.training.whole import whole_file

SILENT = -30.0  # a logit whose probability no threshold reaches
LESION, TUMOUR = HEADS.index("lesion"), HEADS.index("tumour")


class TorchEngine:
    """`model.engine.Engine` on the network as it was trained, in float32: an export of every network would take longer than its scans."""

    precision = "f32"

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.name = f"torch-{device.type}"
        self._device = device
        self._network = network.to(device).eval()

    def run(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See `Engine`."""
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            logits = self._network(torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(self._device))
        return np.asarray(logits.float().cpu().numpy())

    def warm(self, shape: tuple[int, int, int]) -> None:
        """See `Engine`."""
        self.run(np.zeros((1, 1, *shape), np.float32))


def aim_heads(network: AttentionVNet, segmentation: str) -> AttentionVNet:
    """Let the head that segments speak for lesion, and silence the tumour head.

    The founding experiment's network has one head. What a tumour head learned from BraTS it sees in many white-matter lesions at first, and
    what it sees would be taken out of what the arm found.
    """
    head = network.heads[0]
    weight, bias = head.get_parameter("weight"), head.get_parameter("bias")
    with torch.no_grad():
        if segmentation == "tumour":
            weight[LESION], bias[LESION] = weight[TUMOUR].clone(), bias[TUMOUR].clone()
        weight[TUMOUR], bias[TUMOUR] = 0.0, SILENT
    return network


def serve_and_keep(truth: Truth, engine: TorchEngine, card: Card, path: Path) -> None:
    """Serve one scan and write what was found, whole or not at all."""
    began = time.monotonic()
    found = serve(truth, engine, card)
    seconds = time.monotonic() - began
    window = found.window
    with whole_file(path) as stream:
        np.savez_compressed(
            stream,
            window=np.asarray([(part.start, part.stop) for part in window]),
            probability=found.probability[window],
            tumour=np.packbits(found.tumour[window]),
            brain=np.packbits(found.brain[window]),
            quality=np.asarray(found.quality, dtype=np.str_),
            seconds=seconds,
        )


def read_kept(truth: Truth, path: Path) -> tuple[Served, float]:
    """What `serve_and_keep` wrote, and the seconds it took. Outside of brain and tumour class nothing counts, nor is kept."""
    with np.load(path) as kept:
        i, j, k = (slice(int(start), int(stop)) for start, stop in kept["window"])
        part = kept["probability"]
        probability = np.zeros(truth.scan.shape, np.float32)
        probability[i, j, k] = part
        masks = []
        for name in ("tumour", "brain"):
            mask = np.zeros(truth.scan.shape, bool)
            mask[i, j, k] = np.unpackbits(kept[name], count=part.size).reshape(part.shape).astype(bool)
            masks.append(mask)
        quality = tuple(str(flag) for flag in kept["quality"])
        return Served(truth, probability, masks[0], masks[1], quality, START_DEFINITION), float(kept["seconds"])
