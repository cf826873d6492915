"""What ``python -m tmsgd_bench voc-eval`` does: official files of detections in, average precision out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tmsgd_bench.errors import ConfigError
from tmsgd_bench.voc import detection_files
from tmsgd_bench.voc.average_precision import Points, average_precisions, mean_average_precision
from tmsgd_bench.voc.devkit import CLASSES, NAME, as_truth, read_objects, read_split

FIX = "name the folder of a VOC year with --devkit, and with --split a split whose annotations are there."
COUNTS = ["objects", "difficult", "detections"]
HEAD = ("class", "AP (%)", *COUNTS)


@dataclass(frozen=True)
class Evaluation:
    """Average precision by class.

    Args:
        table: a row for each class: ``class``, ``ap`` (0 to 1, NaN without objects), ``objects`` (those that are not
            difficult), ``difficult``, ``detections``.
        rule: what was measured, in words.
    """

    table: pd.DataFrame
    rule: str

    @property
    def mean(self) -> float:
        """Mean average precision, 0 to 1; NaN if no class has objects."""
        return mean_average_precision(self.table["ap"].to_numpy())

    @property
    def present(self) -> int:
        """How many classes have objects."""
        return int(self.table["ap"].notna().sum())


def evaluate(folder: Path, devkit: Path, split: str, threshold: float, points: Points) -> Evaluation:
    """Average precision of the detections in a folder.

    Args:
        folder: with files as :mod:`~tmsgd_bench.voc.detection_files` describes them.
        devkit: the folder of the year, ``VOCdevkit/VOC2007``.
        split: of ``ImageSets/Main``.
        threshold: the least IoU of a true positive, above 0, at most 1.
        points: see :meth:`~tmsgd_bench.voc.average_precision.Curve.average`.

    Raises:
        ConfigError: the threshold is out of range, or the split's name is none.
        DataError: a file is missing or damaged; names it.
    """
    if not 0.0 < threshold <= 1.0:
        raise ConfigError(f"the threshold of IoU cannot be {threshold:g}: choose --iou above 0 and at most 1.")
    if not NAME.fullmatch(split):
        raise ConfigError(f"the split cannot be {split!r}: name one of ImageSets/Main with --split, such as val.")
    names = read_split(devkit, "Main", split, FIX)
    detections = detection_files.read(folder, split, names)
    truth = as_truth([read_objects(devkit / "Annotations" / f"{name}.xml", FIX) for name in names])
    table = pd.DataFrame(
        {
            "class": CLASSES,
            "ap": average_precisions(detections, truth, len(CLASSES), threshold, points),
            "objects": np.bincount(truth.labels[~truth.difficult], minlength=len(CLASSES)),
            "difficult": np.bincount(truth.labels[truth.difficult], minlength=len(CLASSES)),
            "detections": np.bincount(detections.labels, minlength=len(CLASSES)),
        }
    )
    rule = "11 points" if points == "11" else "all points"
    return Evaluation(table, f"{len(names)} images of {split}, IoU {threshold:g}, {rule}")


def _cells(evaluation: Evaluation) -> Iterator[tuple[str, ...]]:
    """A line for each class, and one for all."""
    for name, ap, *counts in evaluation.table.itertuples(index=False):
        yield name, _percent(ap), *map(str, counts)
    totals = evaluation.table[COUNTS].sum()
    yield "mAP", _percent(evaluation.mean), *map(str, totals)


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{100.0 * share:.2f}"


def _note(evaluation: Evaluation) -> str:
    return f"mAP is the mean over {evaluation.present} of {len(CLASSES)} classes, those with objects; {evaluation.rule}"


def to_text(evaluation: Evaluation) -> str:
    """Aligned columns."""
    lines = [f"{name:<12}" + "".join(f"{cell:>12}" for cell in cells) for name, *cells in (HEAD, *_cells(evaluation))]
    return "\n".join([*lines, _note(evaluation)]) + "\n"


def to_markdown(evaluation: Evaluation) -> str:
    """A table in GitHub's Markdown."""
    rows = [HEAD, ("---", *["---:"] * (len(HEAD) - 1)), *_cells(evaluation)]
    return "\n".join([*("| " + " | ".join(row) + " |" for row in rows), "", _note(evaluation) + "."]) + "\n"


def to_csv(evaluation: Evaluation) -> str:
    """A row for each class and one for their mean, in % with all digits; empty without objects."""
    table = evaluation.table
    totals = pd.DataFrame([{"class": "mAP", "ap": evaluation.mean, **table[COUNTS].sum()}])
    both = pd.concat([table, totals], ignore_index=True)
    return str(both.assign(ap=100.0 * both["ap"]).rename(columns={"ap": "ap_percent"}).to_csv(index=False))


FORMATS: dict[str, Callable[[Evaluation], str]] = {"text": to_text, "csv": to_csv, "md": to_markdown}
