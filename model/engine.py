"""The one seam between the network and what runs it: OpenVINO on CPUs, ONNX Runtime on CPUs, ONNX Runtime on CUDA.

`python -m model.engine FOLDER PRECISION` measures a precision against float32 and prints the difference as JSON; `open_engine`
runs that in a child, once per release, processor and OpenVINO version.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import platform
import subprocess
import sys
from collections import OrderedDict
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from model.installed import AUTOMATIC, CHOICES, F32_ONLY, NONE_INSTALLED, PRECISIONS, EngineUnavailable, demand_installed, demand_known
from model.release import InputPreparation, Release, load

__all__ = ["CHOICES", "PRECISIONS", "Engine", "EngineUnavailable", "check_input", "measure_precision", "open_engine"]

Logits = npt.NDArray[np.float32]
Shape = tuple[int, int, int]

COMPILED_BYTES = 1.8e9  # what compiled shapes may hold together: each keeps its activations
CHECK_SIZE = 64
CHECK_SECONDS = 300

log = logging.getLogger(__name__)


class Engine(Protocol):
    """Something that runs a release's network.

    Attributes
    ----------
    name : "openvino-cpu", "onnxruntime-cpu" or "onnxruntime-cuda"
    precision : "bf16" or "f32", what it computes in
    """

    name: str
    precision: str

    def run(self, x: Logits) -> Logits:
        """Input (1, 1, i, j, k), each size divisible by 16 -> logits (1, 3, i, j, k): lesion, tumour, brain."""
        ...

    def warm(self, shape: Shape) -> None:
        """Do now what the first volume of this shape would wait for."""
        ...


class OpenVino:
    """OpenVINO on the CPU, compiled for fixed shapes."""

    name = "openvino-cpu"

    def __init__(self, release: Release, precision: str, threads: int | None) -> None:
        import openvino

        self.precision = precision
        self._core = openvino.Core()
        self._weights = release.weights
        self._voxels = COMPILED_BYTES / release.card.engine.bytes_per_voxel
        self._options = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads or _cores()),
        }
        self._compiled: OrderedDict[Shape, Any] = OrderedDict()

    def run(self, x: Logits) -> Logits:
        """See `Engine`."""
        request = self._request(_shape(x))
        (result,) = request.infer({0: np.ascontiguousarray(x, np.float32)}).values()
        return np.array(result, np.float32)

    def warm(self, shape: Shape) -> None:
        """See `Engine`."""
        self.run(np.zeros((1, 1, *shape), np.float32))

    def _request(self, shape: Shape) -> Any:
        if shape not in self._compiled:
            while self._compiled and sum(map(prod, self._compiled)) + prod(shape) > self._voxels:
                self._compiled.popitem(last=False)
            network = self._core.read_model(self._weights)
            network.reshape({network.input(0): [1, 1, *shape]})
            self._compiled[shape] = self._core.compile_model(network, "CPU", self._options).create_infer_request()
        self._compiled.move_to_end(shape)
        return self._compiled[shape]


class OnnxRuntime:
    """ONNX Runtime in float32, on the CPU or on CUDA."""

    precision = "f32"

    def __init__(self, weights: Path, cuda: bool, threads: int | None) -> None:
        import onnxruntime

        self.name = "onnxruntime-cuda" if cuda else "onnxruntime-cpu"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or _cores()
        options.enable_cpu_mem_arena = False  # the arena would keep the peak for ever
        options.log_severity_level = 3
        providers: list[Any] = [("CUDAExecutionProvider", {"use_tf32": "0"})] if cuda else []
        self._session = onnxruntime.InferenceSession(str(weights), options, providers=[*providers, "CPUExecutionProvider"])
        if cuda and "CUDAExecutionProvider" not in self._session.get_providers():
            raise EngineUnavailable("ONNX Runtime found no usable CUDA device; its log says why (driver, CUDA or cuDNN version)")

    def run(self, x: Logits) -> Logits:
        """See `Engine`."""
        _shape(x)
        (result,) = self._session.run(None, {self._session.get_inputs()[0].name: np.ascontiguousarray(x, np.float32)})
        return np.asarray(result, np.float32)

    def warm(self, shape: Shape) -> None:
        """See `Engine`."""
        self.run(np.zeros((1, 1, *shape), np.float32))


def open_engine(
    release: Release, choice: str = "auto", precision: str = "auto", cache_folder: Path | None = None, threads: int | None = None
) -> Engine:
    """Load a release into an engine.

    Parameters
    ----------
    choice : one of CHOICES; "auto" takes CUDA, then OpenVINO, then ONNX Runtime on the CPU, the first that can be had
    precision : one of PRECISIONS; "auto" takes bfloat16 where the processor has it and the release was measured to bear it
    cache_folder : where that measurement is kept; by default the user's cache folder
    threads : of the CPU engines; by default every core this process may use

    Raises
    ------
    EngineUnavailable
        It is not installed, has no hardware here, or differs more from float32 than the card allows.
    """
    demand_known(choice, precision)
    if choice == "auto":
        return _open_first(release, precision, cache_folder, threads)
    return _open(choice, release, precision, cache_folder, threads)


def _open_first(release: Release, precision: str, cache_folder: Path | None, threads: int | None) -> Engine:
    """Open the first that can be had; one that is installed and cannot (a GPU build without a device) is passed over, and told."""
    reasons = []
    for name in AUTOMATIC:
        try:
            demand_installed(name)
        except EngineUnavailable:
            continue
        try:
            return _open(name, release, precision, cache_folder, threads)
        except EngineUnavailable as error:
            log.warning("engine %s cannot be used here, trying the next: %s", name, error)
            reasons.append(f"{name}: {error}")
    raise EngineUnavailable("; ".join(reasons) or NONE_INSTALLED)


def _open(name: str, release: Release, precision: str, cache_folder: Path | None, threads: int | None) -> Engine:
    demand_installed(name)
    if name == "openvino-cpu":
        return OpenVino(release, _choose_precision(release, precision, cache_folder), threads)
    if precision == "bf16":
        raise EngineUnavailable(f"{name} {F32_ONLY}")
    return OnnxRuntime(release.weights, name == "onnxruntime-cuda", threads)


def _choose_precision(release: Release, wanted: str, cache_folder: Path | None) -> str:
    if wanted == "f32":
        return "f32"
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        if wanted == "bf16":
            raise EngineUnavailable("this processor has no bfloat16; ask for precision f32 or auto")
        return "f32"
    reason = _refusal(release, "bf16", cache_folder or _user_cache())
    if reason is None:
        return "bf16"
    if wanted == "bf16":
        raise EngineUnavailable(f"bfloat16 is refused for {release.card.name} {release.card.version}: {reason}")
    log.error("bfloat16 is refused for %s %s, going on in float32: %s", release.card.name, release.card.version, reason)
    return "f32"


def _refusal(release: Release, precision: str, cache_folder: Path) -> str | None:
    """Why this precision may not serve this release here, or None when it may."""
    measured = _measured(release, precision, cache_folder)
    limits = release.card.engine
    if "error" in measured:
        return str(measured["error"])
    if not np.isfinite([measured["largest"], measured["mean"]]).all():
        return "it gives values that are no numbers"
    if measured["largest"] > limits.largest_probability_difference:
        return f"a probability differs by {measured['largest']:.3f} from float32, allowed are {limits.largest_probability_difference}"
    if measured["mean"] > limits.mean_probability_difference:
        return f"probabilities differ by {measured['mean']:.5f} on average, allowed are {limits.mean_probability_difference}"
    return None


def _measured(release: Release, precision: str, cache_folder: Path) -> dict[str, Any]:
    """The difference from float32, from the cache or measured now in a child, so that a crash there stays there."""
    key = f"{release.card.sha256}\n{precision}\n{_processor()}\n{_openvino_version()}"
    cached = cache_folder / f"precision-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    try:
        found = json.loads(cached.read_text())
        return {"largest": float(found["largest"]), "mean": float(found["mean"])}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    command = [sys.executable, "-m", "model.engine", str(release.folder), precision]
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])}
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_SECONDS, env=surroundings, check=True)
        found = json.loads(child.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError) as error:
        tail = str(getattr(error, "stderr", "") or error).strip().splitlines()
        return {"error": f"it could not be measured: {tail[-1] if tail else error}"}
    _remember(cached, {**found, "release": release.card.sha256, "processor": _processor(), "openvino": _openvino_version()})
    return dict(found)


def _remember(path: Path, found: dict[str, Any]) -> None:
    """A folder that cannot be written costs the next start a measurement, and no case anything."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(found))
        fresh.replace(path)
    except OSError as error:
        log.warning("what was measured of the precision cannot be kept in %s: %s", path.parent, error.strerror)


def measure_precision(release: Release, precision: str) -> dict[str, float]:
    """Largest and mean difference of probabilities from float32, on a piece of a phantom with lesions in it."""
    x = check_input(release.card.input)
    reference, other = (OpenVino(release, p, None).run(x) for p in ("f32", precision))
    difference = np.abs(1 / (1 + np.exp(-reference)) - 1 / (1 + np.exp(-other)))
    return {"largest": float(difference.max()), "mean": float(difference.mean())}


@functools.cache
def check_input(preparation: InputPreparation) -> Logits:
    """A fixed cube of brain with a lesion in the middle, prepared as every scan is."""
    from model.phantom import make_phantom
    from model.preprocess import prepare, resample_to

    phantom = make_phantom(7, plane="ras", oblique_degrees=(0, 0, 0))
    inputs = prepare(phantom.flair, preparation)
    centre = np.argwhere(resample_to(inputs, phantom.lesions) > 0).mean(axis=0)
    low = np.clip(np.round(centre).astype(int) - CHECK_SIZE // 2, 0, np.asarray(inputs.head.shape) - CHECK_SIZE)
    i, j, k = (slice(int(n), int(n) + CHECK_SIZE) for n in low)
    return np.ascontiguousarray(inputs.data[:, :, i, j, k])


def _shape(x: Logits) -> Shape:
    one, channel, i, j, k = x.shape
    if (one, channel) != (1, 1) or i % 16 or j % 16 or k % 16:
        raise ValueError(f"expected (1, 1, i, j, k) with i, j, k divisible by 16, got {x.shape}")
    return i, j, k


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leukoscope"


def _openvino_version() -> str:
    import openvino

    return str(openvino.__version__)


def _processor() -> str:
    """Model, stepping and instruction sets of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    wanted = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")
    return "\n".join(line for line in lines if line.split("\t")[0].strip() in wanted)


if __name__ == "__main__":
    print(json.dumps(measure_precision(load(Path(sys.argv[1])), sys.argv[2])))  # noqa: T201
