"""One frame of an object as a picture, for WADO-RS; drawn in a process of its own, so that what a decoder does stays there.

References
----------
PS3.18 8.3.5 (rendering), PS3.3 C.11.1, C.11.2 (from stored values to grey)
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut, apply_voi

from service.errors import Rejected
from worker.jpeg_extended import plugin_for
from worker.pixels import frame_count, transfer_syntax

FORMATS: Final = {"image/png": "PNG", "image/jpeg": "JPEG"}
LIMIT_S: Final = 30
MEMORY_BYTES: Final = 4 << 30  # address space; a code stream may claim to be larger than the header says
Plane = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Wish:
    """What is to be drawn.

    Attributes
    ----------
    frame : from 1; 0: the only one
    most_pixels : a larger frame is refused, by its header
    window : centre, width and function, instead of the object's own
    size : the picture is made to fit in so many columns and rows
    """

    path: str
    frame: int
    media_type: str
    most_pixels: int
    quality: int = 90
    window: tuple[float, float, str] | None = None
    size: tuple[int, int] | None = None


def draw(wish: Wish) -> bytes:
    """
    Draw one frame, as PNG or JPEG of 8 bits.

    Raises
    ------
    Rejected
        It cannot be shown: no pixels, no such frame, too large, not decoded here, damaged.
    """
    dataset = dcmread(wish.path)
    if "PixelData" not in dataset or "Rows" not in dataset:
        raise Rejected("the object has no pixels to show")
    frames = frame_count(dataset)
    if wish.frame == 0 and frames > 1:
        raise Rejected(f"the object has {frames} frames: ask for one of them, …/frames/1/rendered")
    if wish.frame > frames:
        raise Rejected(f"the object has {frames} frames")
    if int(dataset.Rows) * int(dataset.Columns) > wish.most_pixels:
        raise Rejected(f"a frame of {dataset.Columns} × {dataset.Rows} is larger than any that is shown")
    picture = Image.fromarray(_eight_bits(dataset, max(wish.frame, 1) - 1, wish.window))
    if wish.size is not None:
        scale = min(wish.size[0] / picture.width, wish.size[1] / picture.height)
        picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.BILINEAR)
    buffer = BytesIO()
    picture.save(buffer, FORMATS[wish.media_type], **({"quality": wish.quality} if wish.media_type == "image/jpeg" else {}))
    return buffer.getvalue()


def _eight_bits(dataset: Dataset, index: int, window: tuple[float, float, str] | None) -> npt.NDArray[np.uint8]:
    syntax = transfer_syntax(dataset)
    if int(dataset.BitsAllocated) == 1 and not syntax.is_compressed:
        return _bits(dataset, index)
    values, described = get_decoder(syntax).as_array(dataset, index=index, decoding_plugin=plugin_for(dataset))
    if int(described["samples_per_pixel"]) > 1:
        if values.dtype == np.uint8 and int(dataset.BitsStored) == 8:
            return np.asarray(values)  # as they are: floating point takes 24 bytes a pixel
        return _scaled(values.astype(np.float64), 0.0, float((1 << int(dataset.BitsStored)) - 1))
    shown = _shown(dataset, index)
    grey = _window(np.asarray(apply_modality_lut(values, shown), dtype=np.float64), shown, window)
    return 255 - grey if dataset.get("PhotometricInterpretation") == "MONOCHROME1" else grey


def _bits(dataset: Dataset, index: int) -> npt.NDArray[np.uint8]:
    """Frames of single bits follow each other without a gap (PS3.5 8.1.1); pydicom takes each to begin at a byte."""
    size = int(dataset.Rows) * int(dataset.Columns)
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")[index * size : (index + 1) * size]
    return bits.reshape(int(dataset.Rows), int(dataset.Columns)) * np.uint8(255)


def _shown(dataset: Dataset, index: int) -> Dataset:
    """What turns the values of a frame into grey, wherever an Enhanced object keeps it (PS3.3 C.7.6.16)."""
    found = Dataset()
    groups = [*dataset.get("SharedFunctionalGroupsSequence", ()), *dataset.get("PerFrameFunctionalGroupsSequence", ())[index : index + 1]]
    items = [dataset]
    for group in groups:
        items += [*group.get("PixelValueTransformationSequence", ()), *group.get("FrameVOILUTSequence", ())]
    names = ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction", "ModalityLUTSequence", "VOILUTSequence")
    for item in items:
        for name in names:
            if name in item and not item[name].is_empty:
                found[name] = item[name]
    for name in ("PixelRepresentation", "BitsStored"):
        found[name] = dataset[name]
    return found


def _window(values: Plane, shown: Dataset, window: tuple[float, float, str] | None) -> npt.NDArray[np.uint8]:
    """The window that was asked for, else the object's table, its first window, or all there is between the extremes."""
    if window is None and "VOILUTSequence" in shown:
        looked_up = apply_voi(values.astype(np.int64), shown)
        return _scaled(looked_up.astype(np.float64), 0.0, float((1 << int(shown.VOILUTSequence[0].LUTDescriptor[2])) - 1))
    if window is None and "WindowCenter" in shown and "WindowWidth" in shown:
        window = (_first(shown.WindowCenter), _first(shown.WindowWidth), str(shown.get("VOILUTFunction") or "LINEAR"))
    if window is None:
        return _scaled(values, float(values.min()), float(values.max()))
    centre, width, function = window
    if function == "SIGMOID":
        return _scaled(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -500, 500))), 0.0, 1.0)
    if function == "LINEAR_EXACT":
        return _scaled(values, centre - width / 2, centre + width / 2)
    return _scaled(values, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)


def _scaled(values: Plane, low: float, high: float) -> npt.NDArray[np.uint8]:
    return np.clip(np.rint((values - low) * (255.0 / max(high - low, 1e-9))), 0, 255).astype(np.uint8)


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, list) or hasattr(value, "__iter__") else value)


def answer(line: bytes, work: Callable[[Wish], bytes] = draw) -> tuple[dict[str, Any], bytes]:
    """Do what one line of JSON asks for: the header of the answer, and the picture."""
    wished: Mapping[str, Any] = json.loads(line)
    lists = {name: tuple(value) for name, value in wished.items() if isinstance(value, list)}
    try:
        picture = work(Wish(**{**wished, **lists}))
    except Rejected as error:
        return {"refused": error.reason}, b""
    except FileNotFoundError:
        return {"refused": "the file was cleaned away"}, b""
    except Exception as error:  # noqa: BLE001  # the edge: whatever a decoder raises on an object is the object's
        return {"refused": f"its pixels cannot be shown ({type(error).__name__})"}, b""
    return {"size_bytes": len(picture)}, picture


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer request by request until there are no more; a frame that takes too long ends the process."""
    for line in requests:
        signal.alarm(LIMIT_S)
        head, picture = answer(line)
        signal.alarm(0)
        answers.write(json.dumps(head).encode() + b"\n" + picture)
        answers.flush()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    serve(sys.stdin.buffer, sys.stdout.buffer)
