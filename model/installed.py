"""Which engines there are, and whether one can be had here at all: told without loading any."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path

CHOICES = ("auto", "openvino-cpu", "onnxruntime-cpu", "onnxruntime-cuda")
PRECISIONS = ("auto", "bf16", "f32")
AUTOMATIC = ("onnxruntime-cuda", "openvino-cpu", "onnxruntime-cpu")
NONE_INSTALLED = "no inference engine is installed: pip install 'leukoscope[cpu]' (or 'leukoscope[gpu]')"
NO_CUDA_BUILD = "this ONNX Runtime has no CUDA: in an environment of its own, pip install 'leukoscope[gpu]'"
F32_ONLY = "runs in f32 only; bfloat16 needs openvino-cpu"


class EngineUnavailable(Exception):
    """The engine or precision asked for cannot be had here; the message says what to do."""


def demand_engine(choice: str = "auto", precision: str = "auto") -> None:
    """Tell early, without loading anything, that `open_engine` can never succeed here; that hardware is usable only opening it shows.

    Raises
    ------
    EngineUnavailable
        Nothing is installed for it, it has no such precision, or there is no NVIDIA driver for CUDA.
    """
    demand_known(choice, precision)
    names = AUTOMATIC if choice == "auto" else (choice,)
    for name in names:
        try:
            _demand_files(name, precision)
        except EngineUnavailable:
            if choice != "auto":
                raise
        else:
            return
    raise EngineUnavailable(NONE_INSTALLED)


def demand_known(choice: str, precision: str) -> None:
    """Raise EngineUnavailable for a name that is none."""
    if choice not in CHOICES or precision not in PRECISIONS:
        raise EngineUnavailable(f"engine {choice!r} in {precision!r} is not known; engines: {CHOICES}, precisions: {PRECISIONS}")


def _demand_files(name: str, precision: str) -> None:
    """Look for the packages and the driver an engine needs without importing them: their threads would not survive a fork."""
    package = "openvino" if name == "openvino-cpu" else "onnxruntime"
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise _not_installed(name)
    if precision == "bf16" and name != "openvino-cpu":
        raise EngineUnavailable(f"{name} {F32_ONLY}")
    if name == "onnxruntime-cuda":
        if not list(Path(found.origin).parent.glob("capi/*onnxruntime_providers_cuda*")):
            raise EngineUnavailable(NO_CUDA_BUILD)
        try:
            ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        except OSError as error:
            raise EngineUnavailable(f"onnxruntime-cuda needs an NVIDIA driver, and there is none here ({error})") from error


def demand_installed(name: str) -> None:
    """Import what an engine needs. Raises EngineUnavailable where that is not there."""
    try:
        if name == "openvino-cpu":
            import openvino  # noqa: F401

            return
        import onnxruntime
    except ImportError as error:
        raise _not_installed(name, f" ({error})") from error
    if name == "onnxruntime-cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise EngineUnavailable(NO_CUDA_BUILD)


def _not_installed(name: str, detail: str = "") -> EngineUnavailable:
    extra = "gpu" if name == "onnxruntime-cuda" else "cpu"
    return EngineUnavailable(f"{name} is not installed: pip install 'leukoscope[{extra}]'{detail}")
