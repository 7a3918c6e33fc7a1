"""`leukoscope train contact-sheet`: what the network sees, for a person to judge before anything is trained on it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from torch import Tensor

from model.training.assemble import load_examples, read_bank
from model.training.augment import Crop, Painting, draw_crop, find_centres
from model.training.configuration import Schedule, read_config
from model.training.examples import IGNORE, Example
from model.training.paint import Bank

COLOURS = ("red", "orange", "cyan")  # lesion, tumour, brain
LEGEND = "lesion red, tumour orange, brain cyan; ignored by the lesion head ////, by the tumour head \\\\\\\\"
SCANS_A_KIND = 6
WINDOW = (-6.5, 5.0)  # of z-scored intensities


class Stage(StrEnum):
    """Whose mixture, painting and crop sizes are drawn."""

    PRETRAIN = "pretrain"
    FINETUNE = "finetune"


def contact_sheet(
    config_path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, metavar="CONFIG", help="YAML configuration")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the picture, .png")],
    stage: Annotated[Stage, typer.Option(help="whose mixture and painting")] = Stage.FINETUNE,
    crops: Annotated[int, typer.Option(min=1, max=12, help="crops of each kind")] = 5,
    seed: Annotated[int, typer.Option(help="another seed, other crops")] = 0,
    large: Annotated[bool, typer.Option("--large", help="crops of `large_crop` in the place of `crop`")] = False,
) -> None:
    """Draw crops of every kind as the network gets them: painted, through a random scanner, with their labels."""
    config = read_config(config_path)
    schedule = config.pretrain if stage is Stage.PRETRAIN else config.finetune
    if large and schedule.large_crop is None:
        raise typer.BadParameter(f"`{stage}` has no `large_crop`", param_hint="--large")
    torch.set_num_threads(config.threads)
    bank = read_bank(config)
    examples = load_examples(config, bank, lambda text: typer.echo(text, err=True), tuple(schedule.mixture), SCANS_A_KIND)
    size = schedule.large_crop if large and schedule.large_crop is not None else schedule.crop
    draw_sheet(examples, bank, schedule, size, crops, seed, out)
    typer.echo(out)


def draw_sheet(
    examples: list[Example], bank: Bank, schedule: Schedule, size: tuple[int, int, int], crops: int, seed: int, path: Path
) -> None:
    """One row for each kind of the mixture that has a scan; of every crop the axial and the coronal slice with most disease."""
    from matplotlib.figure import Figure

    kinds = [kind for kind in schedule.mixture if any(example.kind == kind for example in examples)]
    figure = Figure(figsize=(2.6 * crops, 5.5 * len(kinds) + 0.4))
    panels = figure.subplots(2 * len(kinds), crops, squeeze=False)
    for row, kind in enumerate(kinds):
        same = [example for example in examples if example.kind == kind]
        for column in range(crops):
            torch.manual_seed(seed * 1_000_003 + 1009 * row + column)
            example = same[column % len(same)]
            painting = schedule.painting.get(kind, Painting())
            crop = draw_crop(example, find_centres(example), size, schedule.centred, painting, bank)
            for part, axis in enumerate((2, 1)):
                _draw_slice(panels[2 * row + part, column], crop, axis)
            panels[2 * row, column].set_title(f"{kind}: {example.name[:24]}\n{_amounts(crop.labels[0])}", fontsize=6)
    figure.suptitle(LEGEND, fontsize=8, y=1.0 - 0.1 / figure.get_figheight())
    figure.tight_layout(rect=(0.0, 0.0, 1.0, 1.0 - 0.3 / figure.get_figheight()))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def _draw_slice(panel: object, crop: Crop, axis: int) -> None:
    from matplotlib.axes import Axes

    assert isinstance(panel, Axes)
    labels = crop.labels[0].numpy()
    index = _most_disease(labels, axis)
    panel.imshow(np.take(crop.image[0, 0].numpy(), index, axis).T, cmap="gray", origin="lower", vmin=WINDOW[0], vmax=WINDOW[1])
    for head, colour in reversed(list(enumerate(COLOURS))):
        plane = np.take(labels[head], index, axis).T
        if 0 < (plane == 1).sum() < plane.size:
            panel.contour(plane == 1, [0.5], colors=colour, linewidths=0.6)
        if head < 2 and 0 < (plane == IGNORE).sum() < plane.size:
            panel.contourf(plane == IGNORE, [0.5, 1.5], colors="none", hatches=["/////", "\\\\\\\\\\"][head : head + 1])
    panel.axis("off")


def _most_disease(labels: npt.NDArray[np.uint8], axis: int) -> int:
    """The slice with most lesion, else most tumour, else most brain."""
    across = tuple({0, 1, 2} - {axis})
    for head in range(3):
        area = np.count_nonzero(labels[head] == 1, axis=across)
        if area.any():
            return int(np.argmax(area))
    return int(labels.shape[1 + axis]) // 2


def _amounts(labels: Tensor) -> str:
    lesion, tumour = (float((labels[head] == 1).sum()) / 1000.0 for head in (0, 1))
    known = "" if bool((labels[1] != IGNORE).any()) else ", tumour unknown"
    return f"lesion {lesion:.1f} ml, tumour {tumour:.1f} ml{known}"
