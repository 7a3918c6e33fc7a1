"""The words and numbers of a release card: what it was trained on, what it needs, what it must not be used for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from model.engine import measure_precision
from model.release import Card, EngineLimits, InputPreparation, LesionDefinition, load
from model.training.configuration import Config
from model.training.export import Network, architecture, versions

NAME = "leukoscope-wmh"
START_DEFINITION = LesionDefinition(
    threshold=0.5, edge_fraction=0.5, tumour_threshold=0.5, brain_threshold=0.5, smallest_mm3=10.0, tumour_touch_fraction=0.5
)
START_LIMITS = EngineLimits(largest_probability_difference=1.0, mean_probability_difference=1.0, bytes_per_voxel=600.0)
MEMORY_SHAPE = (160, 192, 160)
INTENDED_USE = (
    "Investigational. Segments FLAIR white-matter hyper-intensity, cause not attributed: treatment effect, oedema, infiltration and "
    "other disease look alike. Not a response assessment (RANO). Not for diagnosis; every result is to be read by a physician."
)
LIMITS = (
    "No irradiated patient was in training or evaluation.",
    "Lesion labels come from multiple sclerosis (3 patients, 5 scans); everything else the lesion head learnt is painted or simulated.",
    "The figures by leaving one patient out rest on 3 patients, known while the recipe was chosen: they are anecdotes, not estimates.",
    "No whole-head 3D FLAIR was available: a synthetic head around brain-extracted scans and phantoms stood in for it.",
    "Hyper-intensity that the tumour head takes for tumour, or that mostly touches it, is not counted as white-matter lesion.",
)
DATA: tuple[dict[str, str], ...] = (
    {
        "name": "BraTS 2021 (RSNA-ASNR-MICCAI), FLAIR and whole-tumour labels",
        "use": "tumour and brain heads; background for painted lesions",
        "licence": "CC BY 4.0 as far as known, to be confirmed",
        "citation": "Baid 2021 arXiv:2107.02314; Menze 2015 doi:10.1109/TMI.2014.2377694; Bakas 2017 doi:10.1038/sdata.2017.117",
    },
    {
        "name": "Open MS data, cross-sectional (MNI)",
        "use": "lesion head (2 patients with FLAIR); 27 further lesion masks as shapes to paint",
        "licence": "CC BY",
        "citation": "Lesjak 2017 doi:10.1007/s12021-017-9348-7",
    },
    {
        "name": "Open MS data, longitudinal (raw, thick slices)",
        "use": "brain head; background for painted lesions; own lesions ignored",
        "licence": "CC BY",
        "citation": "Lesjak 2016, Neuroinformatics",
    },
    {
        "name": "MSLesSeg, one patient at three times",
        "use": "lesion head",
        "licence": "CC BY 4.0",
        "citation": "Guarnera, Rondinella et al. 2025 doi:10.1038/s41597-025-05250-y",
    },
    {"name": "Phantoms of this project", "use": "all heads", "licence": "Apache-2.0", "citation": ""},
)


def start_card(preparation: InputPreparation, definition: LesionDefinition = START_DEFINITION, version: str = "0.0.0") -> dict[str, Any]:
    """The card of a network nobody has measured yet; it lacks only what the weights decide."""
    return {
        "name": NAME,
        "version": version,
        "summary": "Being measured.",
        "input": preparation.model_dump(),
        "lesion": definition.model_dump(),
        "engine": START_LIMITS.model_dump(),
        "training": {},
        "figures": {},
        "intended_use": INTENDED_USE,
        "limits": LIMITS,
    }


def provisional_card(network: Network, preparation: InputPreparation) -> Card:
    """What the served path wants to know of a network that is no release."""
    decided = {"architecture": architecture(network).model_dump(), "weights": "", "sha256": ""}
    return Card.model_validate({**start_card(preparation), **decided})


def describe_training(config: Config, volumes: dict[str, int], patients: dict[str, int]) -> dict[str, Any]:
    """The card's `training` part."""
    return {
        "data": [dict(entry) for entry in DATA],
        "volumes_by_kind": volumes,
        "patients_by_kind": patients,
        "irradiated_patients": 0,
        "kept_aside": sorted(patient for source in config.data.sources for patient in source.held_out),
        "pretrain_steps": config.pretrain.steps,
        "finetune_steps": config.finetune.steps,
        "seed": config.seed,
        "configuration": config.model_dump(mode="json", exclude={"data": {"root", "cache"}}),
        "versions": versions(),
    }


def measure_limits(folder: Path) -> tuple[EngineLimits, dict[str, Any]]:
    """What bfloat16 differs by, with a margin of two, and the float32 engine's peak memory by voxel, with a tenth to spare."""
    apart = measure_precision(load(folder), "bf16")
    memory = engine_bytes_per_voxel(folder)
    limits = EngineLimits(
        largest_probability_difference=round(min(0.5, 2 * apart["largest"]), 3),
        mean_probability_difference=round(2 * apart["mean"], 6),
        bytes_per_voxel=round(1.1 * memory),
    )
    return limits, {"bf16_against_f32": {k: round(v, 6) for k, v in apart.items()}, "bytes_per_voxel_f32": round(memory, 1)}


def engine_bytes_per_voxel(folder: Path) -> float:
    """Peak resident memory that one float32 pass of a whole brain adds, in a child, over its voxels."""
    code = (
        "import re, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from model.engine import open_engine\n"
        "from model.release import load\n"
        "engine = open_engine(load(Path(sys.argv[1])), 'openvino-cpu', 'f32')\n"
        "engine.run(np.zeros((1, 1, 16, 16, 16), np.float32))\n"
        "x = np.zeros((1, 1, *map(int, sys.argv[2:])), np.float32)\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) * 1024\n"
        "before = peak()\n"
        "engine.run(x)\n"
        "print(peak() - before)\n"
    )
    command = [sys.executable, "-c", code, str(folder.resolve()), *map(str, MEMORY_SHAPE)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    voxels = MEMORY_SHAPE[0] * MEMORY_SHAPE[1] * MEMORY_SHAPE[2]
    return float(out.stdout.split()[-1]) / voxels
