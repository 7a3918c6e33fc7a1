"""Where annotated scans lie on disk: one small adapter per folder layout, all giving `Case`."""

from __future__ import annotations

from model.training.layouts.case import (
    Case,
    Mask,
    Role,
    UnusableCase,
    carried,
    demand_apart,
    read_brain,
    read_mask,
    read_role,
    read_scan,
    read_volume,
)
from model.training.layouts.detect import LAYOUTS, Found, detect_layouts, find_cases, is_dicom, known_layouts, not_taken
from model.training.layouts.ljubljana import open_ms_shapes

__all__ = [
    "LAYOUTS",
    "Case",
    "Found",
    "Mask",
    "Role",
    "UnusableCase",
    "carried",
    "demand_apart",
    "detect_layouts",
    "find_cases",
    "is_dicom",
    "known_layouts",
    "not_taken",
    "open_ms_shapes",
    "read_brain",
    "read_mask",
    "read_role",
    "read_scan",
    "read_volume",
]
