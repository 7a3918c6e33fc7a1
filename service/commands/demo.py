"""The whole way on one machine: a service of its own, a phantom pushed over real DICOM, every result fetched over REST."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import nibabel
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from service.children import PARENT_VARIABLE
from service.commands.results import clear_folders, write_result
from service.errors import Unavailable

_START_LIMIT_S = 120.0
_CASE_LIMIT_S = 300.0
_STOP_LIMIT_S = 45.0
_KEPT = ("LEUKOSCOPE_RELEASE", "LEUKOSCOPE_ENGINE", "LEUKOSCOPE_PRECISION", "LEUKOSCOPE_THREADS", "LEUKOSCOPE_LOG_LEVEL")
ACCEPTABLE_DICE = 0.8
FILENAMES = {"segmentation": "segmentation.dcm"}


@dataclass(frozen=True)
class Cast:
    """Who plays: what makes the phantom, what writes it as a scanner would, what pushes files to a node.

    `push(folder files, AE title, host, port, on_answer)` gives how many were accepted.
    """

    make_phantom: Callable[[int], Any]
    write_series: Callable[[Any, Path], list[Path]]
    push: Callable[[Sequence[Path], str, str, int, Callable[[], None]], int]


@dataclass(frozen=True)
class Shown:
    """What came of it."""

    case: Mapping[str, Any]
    files: tuple[Path, ...]
    dice: float
    truth_ml: float
    seconds: Mapping[str, float]


def run(results: Path, seed: int, cast: Cast) -> int:
    """Play it and print a table; 0 when everything came back and fits the known lesions."""
    console = Console()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with tempfile.TemporaryDirectory(prefix="leukoscope-demo-") as folder, Progress(*columns, console=console) as progress:
        shown = _play(Path(folder), results, seed, cast, progress)
    _print(console, shown)
    if shown.dice < ACCEPTABLE_DICE:
        console.print(f"Dice {shown.dice:.3f} is below {ACCEPTABLE_DICE}: the release does not do what it should here", style="red")
        return 1
    return 0


def _play(folder: Path, results: Path, seed: int, cast: Cast, progress: Progress) -> Shown:
    seconds: dict[str, float] = {}
    with _service(folder / "data") as process:
        step = progress.add_task("phantom with known lesions", total=1)
        phantom = cast.make_phantom(seed)
        source = _empty(results) / "source"
        files = cast.write_series(phantom.flair, source)
        progress.update(step, completed=1)
        step = progress.add_task("service on free ports", total=1)
        ports = _wait_for_ports(folder / "data", process)
        progress.update(step, completed=1)
        step = progress.add_task("C-STORE", total=len(files))
        began = time.monotonic()
        accepted = cast.push(files, ports["ae_title"], ports["dicom_host"], ports["dicom_port"], lambda: progress.advance(step))
        pushed = time.monotonic()
        if accepted != len(files):
            raise Unavailable(f"{len(files) - accepted} of {len(files)} instances were refused")
        step = progress.add_task("segmentation and reports", total=1)
        with httpx.Client(base_url=ports["http"], timeout=60.0) as client:
            case = _wait_for_case(client, process)
            seconds |= {"C-STORE": pushed - began, "last slice acknowledged → all outputs": time.monotonic() - pushed}
            progress.update(step, completed=1)
            step = progress.add_task("download over REST", total=len(case["outputs"]))
            fetched = [_fetch(client, name, address, results, lambda: progress.advance(step)) for name, address in case["outputs"].items()]
    found, truth, voxel_ml = _lay_truth_beside(phantom, results)
    dice = 2.0 * float((found & truth).sum()) / max(float(found.sum() + truth.sum()), 1.0)
    return Shown(case, (source, *fetched, results / "truth.nii.gz"), dice, float(truth.sum()) * voxel_ml, seconds)


@contextmanager
def _service(data: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `leukoscope serve` on free ports and a folder of its own; stopped in good order at the end."""
    data.mkdir()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LEUKOSCOPE_") or name in _KEPT}
    environ |= {
        "LEUKOSCOPE_DATA_DIR": str(data),
        "LEUKOSCOPE_HTTP_PORT": "0",
        "LEUKOSCOPE_DICOM_PORT": "0",
        PARENT_VARIABLE: str(os.getpid()),
    }
    with (data / "log.jsonl").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "service", "serve"], env=environ, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_ports(data: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline:
        try:
            ports: dict[str, Any] = json.loads((data / "serve.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            if process.poll() is not None:
                last = (data / "log.jsonl").read_text(encoding="utf-8").strip().splitlines()[-3:]
                raise Unavailable("the service did not start: " + " ".join(last)) from None
            time.sleep(0.05)
        else:
            return ports
    raise Unavailable(f"the service did not start within {_START_LIMIT_S:g} s")


def _wait_for_case(client: httpx.Client, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Long-poll the one case until it is final."""
    deadline = time.monotonic() + _CASE_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        items = client.get("/cases").raise_for_status().json()["items"]
        if not items:
            time.sleep(0.05)
            continue
        case: dict[str, Any] = client.get(f"/cases/{items[0]['id']}", params={"wait": 20}).raise_for_status().json()
        if case["state"] == "done":
            return case
        if case["state"] in {"rejected", "failed", "held"}:
            raise Unavailable(f"the case is {case['state']}: {case['reason']}")
    raise Unavailable(f"no result within {_CASE_LIMIT_S:g} s")


def _empty(results: Path) -> Path:
    """Make the results folder and clear what an earlier demo left in it; anything else there stays."""
    results.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(results / "source", ignore_errors=True)
    clear_folders(results)
    for pattern in ("*.dcm", "*.nii.gz", "report.*", "preview.*"):
        for path in results.glob(pattern):
            path.unlink()
    return results


def _fetch(client: httpx.Client, name: str, address: str, results: Path, on_done: Callable[[], None]) -> Path:
    filename = FILENAMES.get(name, name if "." in name else f"{name}.dcm")
    path = write_result(results, filename, client.get(address).raise_for_status().content)
    on_done()
    return path


def _lay_truth_beside(phantom: Any, results: Path) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], float]:
    """Write the known lesions on exactly the segmentation's grid; give both masks and a voxel's volume."""
    image: Any = nibabel.load(results / "segmentation.nii.gz")
    truth = _on_grid(phantom.lesions.data, phantom.lesions.affine_ras, image.affine, image.shape)
    nibabel.save(nibabel.Nifti1Image(truth, image.affine, image.header), results / "truth.nii.gz")
    return np.asarray(image.dataobj) == 1, truth > 0, float(abs(np.linalg.det(image.affine[:3, :3]))) / 1000.0


def _on_grid(
    labels: npt.NDArray[np.uint8], affine: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64], shape: tuple[int, ...]
) -> npt.NDArray[np.uint8]:
    """Bring labels to a grid that differs by the direction of its axes only; another difference is a defect of the way through DICOM."""
    step = np.linalg.inv(affine) @ wanted
    signs = np.rint(np.diag(step)[:3]).astype(int)
    start = np.where(signs < 0, np.asarray(labels.shape) - 1, 0)
    expected = np.eye(4)
    expected[:3, :3] = np.diag(signs)
    expected[:3, 3] = start
    if labels.shape != tuple(shape) or not np.allclose(step, expected, atol=0.05) or 0 in signs:
        raise Unavailable("the segmentation is not on the grid of the series that was sent")
    return np.ascontiguousarray(labels[tuple(slice(None, None, int(sign)) for sign in signs)])


def _print(console: Console, shown: Shown) -> None:
    case = shown.case
    findings = case["findings"]
    model = case["model"]
    table = Table(title="Leukoscope on a phantom with known lesions", show_header=False, title_justify="left")
    table.add_row("model", f"{model['name']} {model['version']} on {model['engine']} ({model['precision']})")
    for name, seconds in shown.seconds.items():
        table.add_row(name, f"{seconds:.2f} s")
    for name, stage in sorted(case["stages"].items(), key=lambda item: str(item[1]["start"])):
        table.add_row(f"  {name}", f"{stage['seconds']:.2f} s")
    table.add_section()
    table.add_row("known lesions", f"{shown.truth_ml:.2f} ml")
    table.add_row("found", f"{findings['lesion_volume_ml']:.2f} ml in {findings['lesion_count']} lesions")
    table.add_row("taken for tumour", f"{findings['tumour_like_volume_ml']:.2f} ml")
    table.add_row("brain", f"{findings['brain_volume_ml']:.0f} ml")
    table.add_row("Dice against the known lesions", f"{shown.dice:.3f}")
    table.add_section()
    for path in shown.files:
        table.add_row("", str(path))
    console.print(table)
    console.print("Investigational. A phantom says nothing about patients.", style="dim")
