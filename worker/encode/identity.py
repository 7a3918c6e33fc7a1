"""Who an output is: UIDs and dates that follow from the case and from nothing else (decision 0002)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.release import Release
from model.volume import Volume
from worker.encode.source import Header
from worker.naming import name_uid

# General Image and functional groups ask for a content date even where the source was stripped of every date
_NO_DATE, _NO_TIME = "19000101", "000000"


@dataclass(frozen=True)
class Identity:
    """The one source of every UID and date in our objects.

    Attributes
    ----------
    seed : hexadecimal SHA-256 over everything that shapes the outputs
    content_date, content_time : DA and TM, from the source series
    """

    seed: str
    content_date: str
    content_time: str

    def uid(self, kind: str) -> str:
        """Give the UID of one thing in this result set."""
        return name_uid(f"{self.seed}/{kind}")


def device_uid(release: Release, product_version: str) -> str:
    """Give the UID of what observes: this version of the product with this release, the same for every case."""
    return name_uid(f"device/{product_version}/{release.card.sha256}")


def identify(
    header: Header,
    volume: Volume,
    labels: npt.NDArray[np.uint8],
    release: Release,
    *,
    engine_name: str,
    precision: str,
    revision: int,
    product_version: str,
    beside_mask: Iterable[npt.NDArray[np.generic]] = (),
    quality: Iterable[str] = (),
    settings: Iterable[str] = (),
) -> Identity:
    """Derive the identity of a result set.

    Parameters
    ----------
    labels : uint8, shape (i, j, k), the mask that goes out
    beside_mask : arrays of that shape that go out too
    settings : whatever else was chosen for the outputs, in a fixed order
    """
    digest = hashlib.sha256()
    said = (header.as_text(), release.card.sha256, release.card.model_dump_json(), engine_name, precision, revision, product_version)
    digest.update(json.dumps([*said, *quality, "--", *settings], ensure_ascii=False, sort_keys=True).encode())
    for array in (volume.data, volume.affine_ras, labels, *beside_mask):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes(order="F"))
    date, time = header.content_moment or (_NO_DATE, _NO_TIME)
    return Identity(digest.hexdigest(), date, time)
