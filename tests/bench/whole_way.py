"""From the last acknowledged slice to the results: five warm series of 176 × 256 × 256, embedded defaults."""

from __future__ import annotations

import statistics
import time
from datetime import datetime
from pathlib import Path

import psutil

from model.phantom import make_phantom
from tests.bench.measuring import peak_memory
from tests.running import Running, series_uid
from worker.phantom import write_series

REPEATS = 5


def measure(folder: Path) -> dict[str, object]:
    phantom = make_phantom(0)
    series = [write_series(phantom.flair, folder / f"series-{n}", uid_seed=f"bench-{n}") for n in range(REPEATS + 1)]
    service = Running(folder / "data").start()
    try:
        _one(service, series[0])  # warm
        supervisor, inference, delivery = _processes(service)
        with peak_memory({"listener and API": [supervisor], "inference worker": inference, "delivery worker": delivery}) as peaks:
            runs = [_one(service, files) for files in series[1:]]
        model = runs[-1]["model"]
    finally:
        service.stop()
    stages = {name: statistics.median(run["stages"][name]["seconds"] for run in runs) for name in runs[0]["stages"]}
    return {
        "engine": f"{model['engine']} {model['precision']}",
        "pushed in": statistics.median(run["pushed"] for run in runs),
        "last slice acknowledged → segmentation": statistics.median(run["segmentation"] for run in runs),
        "last slice acknowledged → all outputs": statistics.median(run["all"] for run in runs),
        "waiting before the first stage": statistics.median(run["waited"] for run in runs),
        "stages": stages,
        "peak memory (PSS, MB)": peaks,
    }


def _one(service: Running, files: list[Path]) -> dict[str, object]:
    began = time.time()
    service.push(files)
    acknowledged = time.time()
    uid = series_uid(files)
    (case,) = service.cases(series_uid=uid)
    while case["state"] != "done":
        case = service.client.get(f"/cases/{case['id']}", params={"wait": 30}).json()
        assert case["state"] not in {"failed", "held", "rejected"}, case
    service.output(case, "segmentation")
    segmentation = time.time()
    service.outputs(case)
    first = min(stage["start"] for stage in case["stages"].values())
    waited = datetime.fromisoformat(first).timestamp() - acknowledged
    return case | {
        "pushed": acknowledged - began,
        "segmentation": segmentation - acknowledged,
        "all": time.time() - acknowledged,
        "waited": waited,
    }


def _processes(service: Running) -> tuple[psutil.Process, list[psutil.Process], list[psutil.Process]]:
    family = service.family()
    trees = []
    for queue in ("inference", "delivery"):
        parent = next(one for one in family[1:] if queue in one.cmdline())
        trees.append([parent, *parent.children(recursive=True)])
    return family[0], trees[0], trees[1]
