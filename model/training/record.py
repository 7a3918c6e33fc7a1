"""What experiment.json says: the configuration, the machine, the versions, what every run took."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from model.training.export import check_parity, export_onnx, versions
from model.training.network import AttentionVNet


def describe_machine(device: torch.device, threads: int) -> dict[str, Any]:
    """Where it ran."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "device_type": device.type,
        "cores": os.cpu_count(),
        "threads": threads,
        "system": platform.system(),
        "versions": versions(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def wall_seconds(log: Path) -> float:
    """Of a run, by its log: every step once, as it was done last; a line that a kill cut short does not count."""
    seconds: dict[int, float] = {}
    for line in log.read_text().splitlines():
        try:
            entry = json.loads(line)
            seconds[entry["step"]] = entry["step_s"]
        except (ValueError, KeyError):
            continue
    return round(sum(seconds.values()), 1)


def measure_parity(network: AttentionVNet, folder: Path) -> dict[str, Any]:
    """How far the released engines are from what served the experiment, on one of its networks; measured once."""
    kept = folder / "parity.json"
    if not kept.exists():
        weights = folder / "parity.onnx"
        export_onnx(network, weights)
        told = check_parity(network, weights)
        weights.unlink()
        kept.write_text(json.dumps(told))
    measured: dict[str, Any] = json.loads(kept.read_text())
    return measured
