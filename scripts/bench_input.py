"""The cost of making batches in the image tasks, as ratios within one process.

    python scripts/bench_input.py [--tasks ic fkpd ig seg od] [--examples 200] [--rounds 3] [--device cpu]
        [--set model.width=16 task.crop=240] [--out FILE]

Two measurements for each task, whose contestants take turns:

- hidden: seconds of a training epoch, divided by seconds of as many steps on one fixed batch. 1.00 means that training
  never waits for batches.
- path: images per second of the task's batches, and of a torchvision-style Dataset with a DataLoader (0 and 2 workers,
  started for each epoch, as is torch's default) that does the same transforms one image at a time, from the files.

The task's batches are timed over successive epochs, as in a run. Batches that workers have made ahead are consumed
first. Then so many epochs are timed that they have at least three times as many batches as workers can make ahead. The
other contestants start when the workers have stopped.

Uses real data if they are there (TMSGD_DATA), otherwise synthetic data, with a warning, and the batch sizes of Table 2.
On a CPU the VOC tasks take minutes a step at their full size: --set makes them smaller. Threads, workers and precision
are those of a run, unless --set changes them.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hydra import compose as compose_config
from hydra import initialize_config_dir
from omegaconf import OmegaConf

import tasks
from tasks.fkpd.data import CROP, SHORT_SIDE, SPLITS
from tasks.ig.data import ENDINGS
from tasks.od import ObjectDetection
from tasks.seg import Segmentation
from tasks.seg.task import stack, training_examples
from tasks.voc import ImageSplit
from tmsgd_bench import files, terminal
from tmsgd_bench.data.catalog import data_root, find
from tmsgd_bench.engine import compose, environment, explanations, sweep  # noqa: F401 (sweep registers resolvers of conf/)
from tmsgd_bench.seeding import seed_globally
from tmsgd_bench.task import Task

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("ic", "fkpd", "ig", "seg", "od")
OF_VOC = ("data.verify=false", "model.weights=none", "task.splits=train/val")
"""Settings of the VOC tasks; the speed depends neither on weights nor on which images there are."""
WORKERS = (0, 2)
AHEAD = 2
"""Batches that a DataLoader makes ahead for each worker: torch's prefetch_factor."""
TENSOR = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


def main() -> int:
    compose.ignore_version_warning()
    options = arguments()
    try:
        results = {name: measure(name, options) for name in options.tasks}
        if options.out:
            files.write_json(
                options.out, {"environment": environment.describe(torch.device(options.device)), **results}
            )
    except Exception as error:
        sentence = explanations.explain(error, ROOT / "conf")
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 2
    return 0


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description="The cost of making batches in the image tasks.")
    parser.add_argument("--tasks", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--examples", type=int, default=200, help="of an epoch (default: 200)")
    parser.add_argument("--rounds", type=int, default=3, help="of each contestant (default: 3)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of run.py")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the numbers as JSON")
    options = parser.parse_args()
    if min(options.examples, options.rounds) < 1:
        parser.error("--examples and --rounds must be at least 1")
    if any(setting.lstrip("+~").partition("=")[0] == "device" for setting in options.set):
        parser.error("the device is not chosen by --set: use --device cpu or --device cuda")
    return options


@dataclass(frozen=True)
class Bench:
    """A task, and where its data are."""

    name: str
    kind: str
    task: Task
    folder: Path


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Both measurements of one task; prints them."""
    with tempfile.TemporaryDirectory() as scratch:
        bench = build(name, options, scratch)
        stream = Stream(bench.task)
        hidden = hidden_share(stream, options.rounds)
        rates = path_rates(bench, stream, options.rounds)
    others = ", ".join(f"DataLoader with {count} workers {rates[f'loader {count}']:,.0f}" for count in WORKERS)
    print(
        f"{name} ({bench.kind} data, batch {bench.task.settings.batch_size}, {bench.task.train_size} images an epoch)"
    )
    print(f"  epoch / fixed batch repeated: {hidden:.3f}")
    print(f"  images a second: own batches {rates['own']:,.0f}, {others}")
    return {"data": bench.kind, "images": bench.task.train_size, "hidden": hidden, "images_per_second": rates}


def build(name: str, options: argparse.Namespace, scratch: str) -> Bench:
    """The task at Table 2's settings on a subset, in a process prepared as for a run."""
    overrides = [f"task={name}", f"data.limit={options.examples}", *(OF_VOC if name in ("seg", "od") else ())]
    with initialize_config_dir(str(ROOT / "conf")):
        config = compose_config("config", overrides=[*overrides, *options.set, f"device={options.device}"])
    dataset = find(str(config.task.dataset))
    real = dataset.folder(data_root(None), "real")
    if real.exists():
        settings = {"kind": "real", "verify": False}  # speed does not depend on the pixels
    else:
        print(f"real {dataset.name} is not here: SYNTHETIC data")
        settings = {"kind": "synthetic", "root": scratch}
    OmegaConf.update(config, "data", {**config.data, **settings})
    device = environment.prepare_process(compose.run_options(config, in_sweep=False), config.tf32)
    seed_globally(0, "weights")
    task = compose.make_task(config, device, tasks.build)
    return Bench(name, settings["kind"], task, task.settings.data_folder)


class Stream:
    """A task's training epochs, one after the other.

    A pause between epochs would falsify the times, because workers make batches during it. So would an epoch that is
    not consumed to its end, because workers finish the batches that they have begun.

    Args:
        task: nothing else may ask for its batches.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.numbers = task, itertools.count()
        ahead = AHEAD * task.settings.workers
        self.skipped = math.ceil(ahead / task.steps_per_epoch)
        self.timed = max(1, math.ceil(3 * ahead / task.steps_per_epoch))

    def epoch(self) -> Iterable[Any]:
        """The next epoch's batches, to be consumed to their end."""
        return self.task.batches(next(self.numbers))

    def epoch_seconds(self, use: Callable[[Iterable[Any]], None]) -> float:
        """Seconds of an epoch whose batches are passed to ``use``; waits until the workers have made all they may."""
        for _ in range(self.skipped):
            for _ in self.epoch():
                pass
        spent = seconds(lambda: [use(self.epoch()) for _ in range(self.timed)], self.task.settings.device)
        time.sleep(spent / 2)  # the batches made ahead are at most a third of those just timed
        return spent / self.timed


def hidden_share(stream: Stream, rounds: int) -> float:
    """Fastest epoch over fastest epoch on its first batch, repeated."""
    task = stream.task
    optimizers = {name: torch.optim.SGD(module.parameters(), lr=1e-6) for name, module in task.modules.items()}
    full = list(stream.epoch())
    fixed = [full[0]] * len(full)
    if _size(full[-1]) != _size(full[0]):
        fixed[-1] = full[-1]  # the last batch may be smaller

    def train(batches: Iterable[Any]) -> None:
        for batch in batches:
            task.training_step(batch, optimizers)

    contestants = {
        "epoch": lambda: stream.epoch_seconds(train),
        "fixed": lambda: seconds(lambda: train(fixed), task.settings.device),
    }
    best = fastest(contestants, rounds)
    return best["epoch"] / best["fixed"]


def _size(batch: Any) -> int:
    """Images of a batch: a tuple or a dictionary of tensors, of which the images come first."""
    return len(next(iter(batch.values())) if isinstance(batch, dict) else batch[0])


def path_rates(bench: Bench, stream: Stream, rounds: int) -> dict[str, float]:
    """Images a second by contestant."""
    data, collate = DATASETS[bench.name](bench)
    size, device = bench.task.settings.batch_size, bench.task.settings.device
    loaders = {count: DataLoader(data, size, shuffle=True, num_workers=count, collate_fn=collate) for count in WORKERS}

    def consume(batches: Iterable[Any]) -> None:
        for batch in batches:
            (batch["images"] if isinstance(batch, dict) else batch[0]).to(device)

    contestants = {"own": lambda: stream.epoch_seconds(consume)}
    for count, loader in loaders.items():
        contestants[f"loader {count}"] = lambda loader=loader: seconds(lambda: consume(loader), device)  # type: ignore[misc]
    best = fastest(contestants, rounds)
    return {name: (bench.task.train_size if name == "own" else len(data)) / best[name] for name in contestants}


def fastest(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Each contestant's fastest round in seconds. They take turns, and the first round, a warm-up, is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            spent = run()
            if turn:
                taken[name].append(spent)
    return {name: min(values) for name, values in taken.items()}


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Seconds that a call takes, until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Images and targets, one at a time, with torchvision's transforms.

    Args:
        items: what ``read`` makes an image of.
        read: from an item to a PIL image.
        transform: from that to a tensor.
    """

    def __init__(
        self, items: list[Any], read: Callable[[Any], Image.Image], transform: Callable[[Any], Tensor]
    ) -> None:
        self.items, self.read, self.transform = items, read, transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.read(self.items[index])), torch.tensor(0)


Examples = tuple[Dataset[Any], Callable[[list[Any]], Any] | None]
"""A data set, and how its examples become a batch; None for torch's own way."""


def cifar(bench: Bench) -> Examples:
    """As torchvision's CIFAR10: arrays in memory, a PIL image each, ToTensor."""
    pixels = bench.task.data.train_images.permute(0, 2, 3, 1).cpu().numpy()  # type: ignore[attr-defined]
    return Images(list(pixels), lambda array: Image.fromarray(np.ascontiguousarray(array)), TENSOR), None


def faces(bench: Bench) -> Examples:
    """Frames from files, in gray, rescaled, cut at random."""
    paths = sorted((bench.folder / SPLITS["train"][1]).iterdir())[: bench.task.train_size]
    transform = v2.Compose([v2.Resize(SHORT_SIDE, antialias=True), v2.RandomCrop(CROP), TENSOR])
    return Images(paths, lambda path: Image.open(path).convert("L"), transform), None


def sneakers(bench: Bench) -> Examples:
    """Photos from files, rescaled, the middle cut out, from -1 to 1."""
    paths = sorted(path for path in bench.folder.iterdir() if path.suffix.lower() in ENDINGS)
    steps = [v2.Resize(64, antialias=True), v2.CenterCrop(64), TENSOR, v2.Normalize([0.5] * 3, [0.5] * 3)]
    read: Callable[[Path], Image.Image] = lambda path: Image.open(path).convert("RGB")  # noqa: E731
    return Images(paths[: bench.task.train_size], read, v2.Compose(steps)), None


class Files:
    """VOC images decoded from their files each time, as torchvision's own classes do.

    Args:
        part: which images.
        folder, ending: where, below the year's folder.
        mode: Pillow's kind of colours; None for the file's.
    """

    def __init__(self, part: ImageSplit, folder: str, ending: str, mode: str | None) -> None:
        paths = [(images.folder / folder, name) for images in part.images for name in images.chosen_names]
        self.paths = [folder_ / f"{name}{ending}" for folder_, name in paths]
        self.mode = mode

    def __getitem__(self, number: int) -> Tensor:
        image = Image.open(self.paths[number])
        pixels = np.array(image.convert(self.mode) if self.mode else image)
        return torch.from_numpy(pixels).view(*pixels.shape[:2], -1).permute(2, 0, 1)


class Made(Dataset[Any]):
    """Examples made one by one by a function of their number."""

    def __init__(self, make: Callable[[int], Any], count: int) -> None:
        self.make, self.count = make, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Any:
        return self.make(number)


class FromFiles:
    """The same images, boxes and masks as a part's, without what is kept decoded."""

    def __init__(self, part: ImageSplit) -> None:
        self.photos = Files(part, "JPEGImages", ".jpg", "RGB")
        self.masks = Files(part, "SegmentationClass", ".png", None)
        self.objects, self.count = part.objects, len(part)

    def __len__(self) -> int:
        return self.count


def segmented(bench: Bench) -> Examples:
    """Images and masks from files, with the task's transforms."""
    task = bench.task
    assert isinstance(task, Segmentation)
    return Made(training_examples(FromFiles(task.train), task.base_size, task.crop), len(task.train)), stack


def detected(bench: Bench) -> Examples:
    """Images from files with their boxes, with the detector's transforms."""
    task = bench.task
    assert isinstance(task, ObjectDetection)
    examples = task.detector.training_examples(FromFiles(task.train))
    return Made(examples, len(task.train)), task.detector.collate


DATASETS: dict[str, Callable[[Bench], Examples]] = {
    "ic": cifar,
    "fkpd": faces,
    "ig": sneakers,
    "seg": segmented,
    "od": detected,
}

if __name__ == "__main__":
    sys.exit(terminal.piped(main))
