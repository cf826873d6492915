"""``voc-eval``: average precision of files of detections."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tmsgd_bench import terminal


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "voc-eval",
        help="average precision of any detector's detections, from files in PASCAL VOC's format",
        description="Average precision by the official rules of PASCAL VOC. The detections are in VOC's files "
        "comp4_det_SPLIT_CLASS.txt with lines 'image score xmin ymin xmax ymax'; a class without a file has none.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with the files of detections")
    parser.add_argument(
        "--devkit", type=Path, required=True, metavar="FOLDER", help="of the year's annotations: .../VOCdevkit/VOC2007"
    )
    parser.add_argument("--split", default="test", help="of ImageSets/Main and of the files' names (default: test)")
    parser.add_argument(
        "--points",
        choices=("11", "all"),
        default="11",
        help="11: mean precision at 11 recalls, as in VOC2007 to VOC2009 (default); all: the area below the curve, as "
        "from VOC2010 on",
    )
    parser.add_argument("--iou", type=float, default=0.5, help="least IoU of a true positive (default: 0.5)")
    parser.add_argument("--format", choices=("text", "csv", "md"), default="text", help="default: text")
    parser.set_defaults(action=evaluate_detections)


def evaluate_detections(options: argparse.Namespace) -> int:
    """Print average precision by class."""
    from tmsgd_bench.voc import command  # imports torch

    evaluation = command.evaluate(options.folder, options.devkit, options.split, options.iou, options.points)
    terminal.say(command.FORMATS[options.format](evaluation), end="")
    return 0
