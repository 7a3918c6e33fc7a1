"""A tiny release whose network is one convolution: everything runs, nothing takes long."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model.release import Architecture, Card, EngineLimits, InputPreparation, LesionDefinition, Release, load

SMALL = InputPreparation(spacing_mm=2.0, shapes=((80, 96, 80), (96, 112, 96)))


def write_release(folder: Path, *, version: str = "0.0.1", gain: float = 4.0, limits: tuple[float, float] = (0.1, 0.01)) -> Release:
    """Write a release whose lesion logit is bright tissue, tumour logit very bright tissue, brain logit anything but background."""
    folder.mkdir(parents=True)
    kernel = np.zeros((3, 1, 3, 3, 3), np.float32)
    kernel[0] = kernel[1] = kernel[2] = gain / 27
    bias = np.asarray([-1.5 * gain, -3.0 * gain, 0.5 * gain], np.float32)
    network = helper.make_graph(
        [helper.make_node("Conv", ["x", "kernel", "bias"], ["logits"], pads=[1] * 6)],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, "i", "j", "k"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3, "i", "j", "k"])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(network, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    weights = model.SerializeToString()
    (folder / "network.onnx").write_bytes(weights)
    card = Card(
        name="tiny",
        version=version,
        summary="One convolution, for tests.",
        architecture=Architecture(widths=(1,)),
        input=SMALL,
        lesion=LesionDefinition(
            threshold=0.5, tumour_threshold=0.5, brain_threshold=0.5, smallest_mm3=30, tumour_touch_fraction=0.1, temperature=1.0
        ),
        engine=EngineLimits(
            largest_probability_difference=limits[0], mean_probability_difference=limits[1], bytes_per_voxel=100, tile_overlap_voxels=16
        ),
        weights="network.onnx",
        sha256=hashlib.sha256(weights).hexdigest(),
        training={},
        figures={},
        intended_use="Tests.",
        limits=(),
    )
    (folder / "card.json").write_text(card.model_dump_json(indent=1))
    return load(folder)
