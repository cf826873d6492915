"""A switch to TM-SGD at the edge of stability, where lr × sharpness is near 2.

    python scripts/edge_of_stability.py [--cifar FOLDER] [--out results/sharpness]

Full-batch gradient descent with a large step raises the sharpness λ, the largest eigenvalue of the loss's Hessian,
until lr × λ is near 2, the stability limit of gradient descent (Cohen et al. 2021, arXiv 2103.00065). The multistep
method is stable only below 1; with momentum 0.9 the limits are 3.8 and 0.5. Three problems on real data, 1,000 examples
each, are trained until lr × λ first rises to 1.9. From that state four branches go on:

    a  SGD, same lr            c  TM-SGD, lr dropped to half its limit
    b  TM-SGD, same lr         d  SGD, lr dropped as in c

Loss at every step, lr × λ at every --every steps, and a verdict for each branch are written to CSV files and drawn in
one figure. The training sets are seeded subsets; apart from them only the initial weights are random. About 12 minutes
on one core.

R8 must be in TMSGD_DATA (or the user's cache folder), and CIFAR-10, in its publisher's pickled batches, in --cifar.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tasks.ic.data import read_batch
from tasks.tc import TextClassification
from tmsgd_bench import outputs, terminal
from tmsgd_bench.data.catalog import data_root, find
from tmsgd_bench.errors import BenchError, DataError
from tmsgd_bench.optim import TMSGD, MultistepScheme, sharpness
from tmsgd_bench.optim.curvature import NotFinite
from tmsgd_bench.seeding import seed_globally, subset
from tmsgd_bench.task import TaskSettings

BEFORE_EVERY = 10
"""Steps between two measurements before the branches."""
DIVERGED = 10.0
"""A branch has diverged if its final loss is not finite, or above so many times its loss at the switch."""
HOPELESS = 1e4
"""A branch is ended when its loss is above so many times its loss at the switch."""


@dataclass(frozen=True)
class Problem:
    """A full-batch loss and how it is trained.

    Args:
        name: in tables and the figure.
        model: what is trained.
        loss: evaluates the whole sample.
        lr: large enough for lr × sharpness to climb to 2.
        momentum: of the heavy ball.
        drop: what lr is divided by in branches c and d.
    """

    name: str
    model: nn.Module
    loss: Callable[[], Tensor]
    lr: float
    momentum: float = 0.0
    drop: float = 4.0

    def limit(self, multistep: bool) -> float:
        """The stability limit of lr × sharpness."""
        return MultistepScheme.resolve("taylor3" if multistep else "euler").stability_limit(self.momentum)


@dataclass(frozen=True)
class Branch:
    """How training goes on from the shared state: with lr / drop, and with the multistep method or SGD."""

    name: str
    drop: float
    multistep: bool


@dataclass(frozen=True)
class Point:
    """The state before a step: its loss, and its sharpness where that was measured (NaN elsewhere)."""

    step: int
    loss: float
    sharpness: float


@dataclass(frozen=True)
class Verdict:
    """The result of a branch: loss and lr × sharpness at the switch and at the end, and the loss's peak between."""

    problem: str
    branch: str
    lr: float
    limit: float
    switch_step: int
    lr_times_sharpness_at_switch: float
    lr_times_sharpness_at_end: float
    loss_at_switch: float
    final_loss: float
    peak_over_switch: float
    steps: int
    diverged: bool


def main() -> int:
    options = parse()
    torch.set_num_threads(1)
    try:
        problems = [r8(options), cnn(options), cnn(options, momentum=True)]
        options.out.mkdir(parents=True, exist_ok=True)  # now, and not after a quarter of an hour
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: cannot write into {options.out} ({error.strerror}): choose another --out.", file=sys.stderr)
        return 2
    studies = [study(problem, options) for problem in problems]
    trace = pd.concat([frames for frames, _ in studies], ignore_index=True)
    report(trace, pd.DataFrame([asdict(verdict) for _, verdicts in studies for verdict in verdicts]), options.out)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Switching to TM-SGD at the edge of stability, on R8 and CIFAR-10.")
    default = data_root(None) / "cifar10" / "cifar-10-batches-py"
    parser.add_argument("--cifar", type=Path, default=default, metavar="FOLDER", help=f"default: {default}")
    parser.add_argument("--out", type=Path, default=Path("results/sharpness"), metavar="FOLDER")
    parser.add_argument("--examples", type=int, default=1000, help="training examples of each problem (default: 1000)")
    parser.add_argument("--threshold", type=float, default=1.9, help="lr × sharpness to branch at (default: 1.9)")
    parser.add_argument("--longest", type=int, default=600, help="steps to wait for that, at most (default: 600)")
    parser.add_argument("--steps", type=int, default=200, help="steps of each branch (default: 200)")
    parser.add_argument("--every", type=int, default=20, help="steps between a branch's measurements (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    options = parser.parse_args()
    if min(options.examples, options.longest, options.steps, options.every) < 1 or not options.threshold > 0.0:
        parser.error("--examples, --longest, --steps, --every and --threshold must be greater than 0")
    return options


# --- problems ------------------------------------------------------------------------------------------------------


def r8(options: argparse.Namespace) -> Problem:
    """The text classification task with one batch: cross-entropy of an LSTM.

    Documents are padded at the start, with which the sharpness rises smoothly; padded at the end, it jumps tenfold.
    """
    dataset = find("r8")
    folder = dataset.folder(data_root(None), "real")
    if dataset.problems(folder):
        raise DataError("the real R8 is not here: run 'python -m tmsgd_bench data prepare r8', or set TMSGD_DATA.")
    size = {"_target_": "tasks.tc.model.LSTMClassifier", "embedding": 100, "hidden": 50}
    settings = TaskSettings(folder, options.examples, options.examples, options.seed, torch.device("cpu"), size)
    seed_globally(options.seed, "weights")
    task = TextClassification(settings, 32, "start")
    (batch,) = task.batches(0)
    return Problem("R8, LSTM", task.model, lambda: task.loss(batch), lr=0.3)


def cnn(options: argparse.Namespace, momentum: bool = False) -> Problem:
    """CIFAR-10 with three convolutions and tanh, without normalisation; half the squared error to one-hot labels."""
    images, labels = read_cifar(options.cifar / "data_batch_1", options.examples)
    seed_globally(options.seed, "weights")
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Tanh()),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 10)),
    )
    targets = F.one_hot(labels, 10).float()

    def loss() -> Tensor:
        return 0.5 * (model(images) - targets).square().sum(dim=1).mean()

    if momentum:
        return Problem("CIFAR-10, CNN, momentum 0.9", model, loss, lr=0.05, momentum=0.9, drop=8.0)
    return Problem("CIFAR-10, CNN", model, loss, lr=0.2)


def read_cifar(path: Path, count: int) -> tuple[Tensor, Tensor]:
    """A seeded subset of a batch file: images (count, 3, 32, 32), normalised by channel, and labels (count,).

    Raises:
        DataError: the file is missing, is no such batch, or holds fewer images.
    """
    fix = "unpack CIFAR-10's python version and pass its folder with --cifar."
    images, labels = read_batch(path, "labels", 10, fix)
    if len(labels) < count:
        raise DataError(f"{path} holds {len(labels)} images: use --examples {len(labels)} or fewer.")
    chosen = subset(len(labels), count)
    images = images[chosen].float() / 255.0
    scaled = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)
    return scaled, labels[chosen]


# --- training ------------------------------------------------------------------------------------------------------


def study(problem: Problem, options: argparse.Namespace) -> tuple[pd.DataFrame, list[Verdict]]:
    """Train up to the edge, then every branch from there."""
    start = time.perf_counter()
    optimizer = TMSGD(problem.model.parameters(), lr=problem.lr, momentum=problem.momentum, switch_step="auto")
    at_edge = rises_to(options.threshold / problem.lr)
    before = descend(problem, optimizer, 0, options.longest, BEFORE_EVERY, at_edge)
    if not at_edge(before):
        print(f"{problem.name}: lr × sharpness did not rise to {options.threshold:g}: the branches begin below it")
    shared = copy.deepcopy([problem.model.state_dict(), optimizer.state_dict()])
    print(f"{problem.name}: branching at step {before[-1].step}, {time.perf_counter() - start:.0f} s", flush=True)
    frames, verdicts = [frame(problem, "before", problem.lr, before)], []
    for branch in branches(problem):
        points = follow(problem, branch, shared, before[-1], options)
        frames.append(frame(problem, branch.name, problem.lr / branch.drop, points))
        verdicts.append(judge(problem, branch, points))
        print(f"  {verdicts[-1]}, {time.perf_counter() - start:.0f} s", flush=True)
    return pd.concat(frames, ignore_index=True), verdicts


def rises_to(edge: float) -> Callable[[list[Point]], bool]:
    """Whether the sharpness was just measured at or above an edge, after a measurement below it."""

    def check(points: list[Point]) -> bool:
        measured = [point.sharpness for point in points if not math.isnan(point.sharpness)]
        return points[-1].sharpness >= edge and len(measured) > 1 and measured[-2] < edge

    return check


def branches(problem: Problem) -> list[Branch]:
    return [
        Branch("a SGD, same lr", 1.0, False),
        Branch("b TM-SGD, same lr", 1.0, True),
        Branch("c TM-SGD, lr dropped", problem.drop, True),
        Branch("d SGD, lr dropped", problem.drop, False),
    ]


def follow(
    problem: Problem, branch: Branch, shared: list[dict[str, Any]], last: Point, options: argparse.Namespace
) -> list[Point]:
    """A branch from the shared weights and momentum, until its end or until it is hopeless."""
    weights, state = copy.deepcopy(shared)
    problem.model.load_state_dict(weights)
    optimizer = TMSGD(problem.model.parameters(), lr=problem.lr, switch_step="auto")
    optimizer.load_state_dict(state)
    optimizer.param_groups[0]["lr"] = problem.lr / branch.drop
    if branch.multistep:
        optimizer.switch()

    def hopeless(points: list[Point]) -> bool:
        return not points[-1].loss < HOPELESS * last.loss

    return descend(problem, optimizer, last.step, options.steps, options.every, hopeless)


def descend(
    problem: Problem, optimizer: TMSGD, first: int, steps: int, every: int, stop: Callable[[list[Point]], bool]
) -> list[Point]:
    """Full-batch steps: the states before each, and the last, where the model is left."""
    points: list[Point] = []
    while True:
        done = len(points)
        optimizer.zero_grad()
        loss = problem.loss()
        points.append(Point(first + done, loss.item(), measure(problem) if done % every == 0 else math.nan))
        if done == steps or stop(points):
            return points
        loss.backward()
        optimizer.step()


def measure(problem: Problem) -> float:
    try:
        return float(sharpness(problem.loss, problem.model.parameters()))
    except NotFinite:
        return math.nan


def judge(problem: Problem, branch: Branch, points: list[Point]) -> Verdict:
    lr = problem.lr / branch.drop
    measured = [point.sharpness for point in points if not math.isnan(point.sharpness)]
    losses = [point.loss if math.isfinite(point.loss) else math.inf for point in points]
    return Verdict(
        problem=problem.name,
        branch=branch.name,
        lr=lr,
        limit=problem.limit(branch.multistep),
        switch_step=points[0].step,
        lr_times_sharpness_at_switch=lr * measured[0],
        lr_times_sharpness_at_end=lr * measured[-1],
        loss_at_switch=losses[0],
        final_loss=losses[-1],
        peak_over_switch=max(losses) / losses[0],
        steps=points[-1].step - points[0].step,
        diverged=not losses[-1] <= DIVERGED * losses[0],
    )


# --- output --------------------------------------------------------------------------------------------------------


def frame(problem: Problem, branch: str, lr: float, points: list[Point]) -> pd.DataFrame:
    rows = pd.DataFrame([asdict(point) for point in points])
    rows.insert(0, "problem", problem.name)
    rows.insert(1, "branch", branch)
    rows["lr"] = lr
    rows["lr_times_sharpness"] = lr * rows["sharpness"]
    return rows


def report(trace: pd.DataFrame, verdicts: pd.DataFrame, out: Path) -> None:
    """Print the verdicts, write both tables and the figure.

    Raises:
        StoreError: the folder cannot be written, or holds other files of these names.
    """

    def fill(place: Path) -> None:
        trace.to_csv(place / "edge_of_stability.csv", index=False, float_format="%.6g")
        verdicts.to_csv(place / "edge_of_stability_verdicts.csv", index=False, float_format="%.6g")
        draw(trace, verdicts, place / "edge_of_stability.png")

    outputs.renew(out, fill)
    print(verdicts.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    print(f"written into {out}")


STYLES = {  # colour, line, marker: told apart also without colours
    "before": ("black", "-", ""),
    "a": ("0.5", "-", "o"),
    "b": ("black", "--", "s"),
    "c": ("black", "-.", "^"),
    "d": ("0.6", ":", "v"),
}


def draw(trace: pd.DataFrame, verdicts: pd.DataFrame, path: Path) -> None:
    """Loss above, lr × sharpness below, a column for each problem."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    problems = list(trace["problem"].unique())
    figure, axes = plt.subplots(2, len(problems), figsize=(4.4 * len(problems), 6.4), sharex="col", squeeze=False)
    for (loss, product), problem in zip(axes.T, problems, strict=True):
        points = trace[trace["problem"] == problem]
        loss.set(title=problem, ylabel="training loss")
        product.set(xlabel="step", ylabel="lr × sharpness")
        for axis in (loss, product):
            plain_log_scale(axis)
        for name, rows in points.groupby("branch", sort=False):
            add_lines(loss, product, str(name), rows)
        limits = verdicts.loc[verdicts["problem"] == problem, "limit"].unique()
        for limit, label in zip(limits, ("SGD's", "TM-SGD's"), strict=True):
            product.axhline(limit, color="0.75", linewidth=0.8, zorder=0)
            right = product.get_yaxis_transform()  # x as a share of the axes' width, y in data
            product.text(1.01, limit, f"{label}\nlimit {limit:.2g}", transform=right, fontsize=7, va="center")
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def plain_log_scale(axis: Any) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 4, 5, 6, 8)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())


def add_lines(loss: Any, product: Any, name: str, rows: pd.DataFrame) -> None:
    colour, line, marker = STYLES[name.split()[0]]
    loss.plot(rows["step"], rows["loss"], color=colour, linestyle=line, linewidth=1.2, label=name)
    shown = rows[rows["lr_times_sharpness"].notna()]
    look = {"color": colour, "linestyle": line, "marker": marker, "markersize": 4, "linewidth": 1.2}
    product.plot(shown["step"], shown["lr_times_sharpness"], **look)


if __name__ == "__main__":
    sys.exit(terminal.piped(main))
