"""A quarter of an hour on one GPU, used in full: tests, then the paper's settings of four tasks, each within its limit.

    python scripts/gpu_quarter_hour.py --data FOLDER --vgg16 FILE --out FOLDER        # 10 minutes on one GPU
    python scripts/gpu_quarter_hour.py --only fkpd --limit fkpd=540 --data FOLDER --out FOLDER
    python scripts/gpu_quarter_hour.py --smoke --out FOLDER     # on a CPU, with synthetic data: see that it works

The stages, in this order:

    tests  what make test-gpu runs
    fkpd   Table 4's settings, six runs at once on the card: the six optimizers of one seed after the other
    ic     protocol=corrected, ResNet18: SGD and TM-SGD first, which share their epochs before the switch
    ig     Table 2's settings, six at once
    od     RFBNet from VGG16's weights, in bfloat16

A stage that is not through at its limit is stopped: its runs finish their epoch if that is near, and leave a
checkpoint, so that the same command goes on with them. A stage that fails does not keep the others from running. The
script needs no network. --out has the finished runs of each stage in a packed file (NAME.parquet), which the commands
read with --results, the table that is printed at the end (summary.md), and the ends of all logs (log.txt).

Runs on data that are no verified copy (--set ic:data.verify=false), from a file's weights or in bfloat16 follow no
protocol of the paper; all others are evidence at level "full".
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tmsgd_bench import cli, escaping, files, terminal
from tmsgd_bench.errors import BenchError, ConfigError
from tmsgd_bench.results import store
from tmsgd_bench.results.cells import markdown_row
from tmsgd_bench.results.status import FINISHED
from tmsgd_bench.version import LEVELS

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/optim/test_fused_gpu.py", "tests/engine/test_environment.py", "tests/tasks/test_on_gpu.py")
"""What make test-gpu runs."""
LIMITS = {"tests": 70, "fkpd": 220, "ic": 50, "ig": 150, "od": 30}
"""Seconds of each stage by default: less than ten minutes in all, with GRACE_SECONDS for each."""
OPTIMIZERS = ("sgd", "tmsgd", "sgdm", "tmsgdm", "adam", "apollo")
OF_A_SMOKE = ("sgd", "tmsgd")
SETTINGS = {
    "fkpd": ("task=fkpd", "protocol=table2"),
    "ic": ("task=ic", "model=resnet18", "protocol=corrected"),
    "ig": ("task=ig", "protocol=table2"),
    "od": ("task=od", "model=rfbnet", "protocol=corrected", "task.precision=bfloat16", "task.channels_last=true"),
}
AT_ONCE = {"fkpd": 6, "ic": 2, "ig": 6, "od": 1}
"""Runs at a time on the card: large networks with large batches fill it alone."""
GRACE_SECONDS = 12.0
"""From the request to stop until a process is killed; a run takes up to 5 to finish its epoch."""
POLL_SECONDS = 0.1
TAIL = 100_000
"""Bytes of each log's end that are kept."""
LARGEST = 16 * 2**20
"""Bytes of a file that come back from such a machine, where they are limited."""


@dataclass(frozen=True)
class Stage:
    """Commands that run side by side, for so many seconds.

    Args:
        name: of the stage.
        seconds: after which it is stopped.
        commands: in this order.
        at_once: so many of them at a time.
        store: where its runs are; None for a stage without runs.
    """

    name: str
    seconds: float
    commands: tuple[tuple[str, ...], ...]
    at_once: int = 1
    store: Path | None = None


@dataclass
class Report:
    """What became of a stage: "done", "stopped" or "failed", and why."""

    stage: Stage
    status: str
    seconds: float
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False


@dataclass(frozen=True)
class Process:
    """A started command, and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def ask_to_stop(self) -> None:
        """Send SIGTERM, after which a run leaves a checkpoint."""
        with suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        """End the process and those that it started, which are a group of their own."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


# --- the stages ----------------------------------------------------------------------------------------------------


def stages(options: argparse.Namespace) -> list[Stage]:
    """The stages that the options ask for."""
    limits = dict(LIMITS) | dict(options.limit)
    names = [name for name in LIMITS if name in options.only]
    return [_stage(name, float(limits[name]), options) for name in names]


def _stage(name: str, seconds: float, options: argparse.Namespace) -> Stage:
    if name == "tests":
        return Stage(name, seconds, ((sys.executable, "-m", "pytest", "-q", *TESTS),))
    root = options.store / name
    common = ["prefix=on", "threads=1", "progress=log", "checkpoint_seconds=15", f"results.root={root}"]
    common += [f"data.root={options.data}", *(value for stage, value in options.set if stage == name)]
    if options.smoke:
        common = [*SETTINGS[name], *common, "protocol=smoke", "data=synthetic", "device=cpu"]
    else:
        common = [*SETTINGS[name], *common, "device=cuda"]
        common += [f"model.weights={options.vgg16}"] if name == "od" else []
    commands = tuple(
        (sys.executable, "run.py", f"optimizer={optimizer}", f"seed={seed}", *_last_of_each(common))
        for seed in range(options.seeds)
        for optimizer in (OF_A_SMOKE if options.smoke else OPTIMIZERS)
    )
    return Stage(name, seconds, commands, AT_ONCE[name], root)


def _last_of_each(settings: Sequence[str]) -> list[str]:
    """Each setting once, with the value that was given last: Hydra takes none twice."""
    return list({setting.partition("=")[0]: setting for setting in settings}.values())


# --- running them --------------------------------------------------------------------------------------------------


def run(stage: Stage, logs: Path) -> Report:
    """Run the commands of a stage until all have ended, or its time is over, or an interrupt.

    Args:
        stage: what to run.
        logs: a folder that is there, for a log of each command.
    """
    start = time.monotonic()
    waiting = list(enumerate(stage.commands))
    running: list[Process] = []
    report = Report(stage, "done", 0.0)
    try:
        while (waiting or running) and time.monotonic() - start < stage.seconds:
            while waiting and len(running) < stage.at_once:
                place, command = waiting.pop(0)
                running.append(_start(command, logs / f"{stage.name}-{place}.txt"))
            time.sleep(POLL_SECONDS)
            ended = [process for process in running if process.process.poll() is not None]
            report.notes += [note for process in ended if (note := _failure(process))]
            running = [process for process in running if process not in ended]
    except KeyboardInterrupt:
        report.interrupted = True
    finally:
        stop(running)
        unfinished = waiting or any(process.process.returncode for process in running)
        report.status = "stopped" if unfinished else "done"
        report.seconds = time.monotonic() - start
    report.status = "failed" if report.notes else report.status
    return report


def _start(command: Sequence[str], log: Path) -> Process:
    with log.open("wb") as output:
        started = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
    return Process(started, log)


def _failure(process: Process) -> str:
    """The last line of a failed command's log; empty while it runs, or if it succeeded."""
    if not process.process.poll():
        return ""
    lines = _tail(process.log).strip().splitlines()
    return f"{process.log.stem}: {lines[-1] if lines else f'exit code {process.process.returncode}'}"


def stop(processes: Sequence[Process], grace: float = GRACE_SECONDS) -> None:
    """Ask processes to stop, and kill those that have not after so many seconds."""
    for process in processes:
        process.ask_to_stop()
    end = time.monotonic() + grace
    while time.monotonic() < end and any(process.process.poll() is None for process in processes):
        time.sleep(POLL_SECONDS)
    for process in processes:
        process.kill()


def _tail(path: Path) -> str:
    """The end of a log, as text that a terminal can show."""
    data = path.read_bytes() if path.is_file() else b""
    return escaping.lines(data[-TAIL:].decode("utf-8", errors="replace"))


# --- what comes back -----------------------------------------------------------------------------------------------


def keep(reports: Sequence[Report], logs: Path, out: Path) -> str:
    """Pack the finished runs of the last stage, and write the table and the logs of all; returns the table.

    Raises:
        StoreError: the folder cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    stage = reports[-1].stage
    if stage.store is not None and len(_finished(stage.store)):
        packed = out / f"{stage.name}.parquet"
        if cli.main(["pack", str(stage.store), "--out", str(packed)]) != 0:
            reports[-1].notes.append("its runs could not be packed")
        elif packed.stat().st_size > LARGEST:
            reports[-1].notes.append(f"{packed.name} has more than {LARGEST // 2**20} MiB")
    text = summary(reports)
    every = [f"== {path.stem}\n{_tail(path)}" for path in sorted(logs.glob("*.txt"))]
    files.write_text(out / "summary.md", text)
    files.write_text(out / "log.txt", "\n".join(every))
    return text


def _finished(root: Path) -> list[str]:
    """The level of evidence of each finished run of a store; "none" for runs that are none."""
    runs = store.read_runs(root)
    done = runs[runs["status"].isin(FINISHED)]
    return [
        next((LEVELS[name] for name in names if name in LEVELS and data == "real"), "none")
        for names, data in zip(done["protocols"], done["data"], strict=True)
    ]


def summary(reports: Sequence[Report]) -> str:
    """The stages in a table in Markdown."""
    heads = ["Stage", "Status", "Seconds", "Runs finished", "At level", "Unfinished, epochs", "Notes"]
    return "\n".join(map(markdown_row, [heads, ["---"] * len(heads), *map(_row, reports)])) + "\n"


def _row(report: Report) -> list[str]:
    finished, levels, unfinished = "–", "–", "–"
    if report.stage.store is not None:
        of_runs = _finished(report.stage.store)
        finished = f"{len(of_runs)} of {len(report.stage.commands)}"
        levels = ", ".join(sorted(set(of_runs))) or "–"
        unfinished = _unfinished(report.stage.store) or "–"
    notes = escaping.markdown("; ".join(report.notes)) or "–"
    return [report.stage.name, report.status, f"{report.seconds:.0f}", finished, levels, unfinished, notes]


def _unfinished(root: Path) -> str:
    """How far the others came: the epochs of their last sign of life."""
    runs = store.read_runs(root)
    others = runs[~runs["status"].isin(FINISHED)]
    reached = others["epochs_done"].fillna(0).astype(int)
    return ", ".join(f"{done} of {of:.0f}" for done, of in zip(reached, others["epochs"], strict=True))


# --- the script ----------------------------------------------------------------------------------------------------


def _pair(separator: str, kind: Callable[[str], object]) -> Callable[[str], tuple[str, object]]:
    """A type of an option's value: a stage's name, a separator, and a value."""

    def parsed(text: str) -> tuple[str, object]:
        name, _, value = text.partition(separator)
        if name not in LIMITS or not value:
            raise argparse.ArgumentTypeError(f"{text!r} must begin with {', '.join(LIMITS)}, then {separator!r}")
        return name, kind(value)

    return parsed


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value < 86_400.0:
        raise argparse.ArgumentTypeError(f"{text!r} must be seconds, above 0")
    return value


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description="A quarter of an hour on one GPU, used in full.")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the data sets: data.root of the runs")
    parser.add_argument("--vgg16", type=Path, metavar="FILE", help="VGG16's weights, for the stage od")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for what is to be kept")
    parser.add_argument(
        "--store", type=Path, default=Path("outputs/gpu"), metavar="FOLDER", help="for the runs (default: outputs/gpu)"
    )
    parser.add_argument("--only", nargs="+", choices=tuple(LIMITS), default=list(LIMITS), help="these stages")
    parser.add_argument(
        "--limit", type=_pair("=", _seconds), action="append", default=[], metavar="STAGE=SECONDS",
        help=f"default: {' '.join(f'{name}={seconds}' for name, seconds in LIMITS.items())}",
    )  # fmt: skip
    parser.add_argument(
        "--set", type=_pair(":", str), action="append", default=[], metavar="STAGE:SETTING", help="for its runs"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="of each stage at most (default: 3)")
    parser.add_argument("--smoke", action="store_true", help="on a CPU: protocol=smoke, synthetic data, one seed")
    options = parser.parse_args(arguments)
    options.seeds = 1 if options.smoke else options.seeds
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    return options


def check(options: argparse.Namespace) -> None:
    """Refuse what would waste the time on the machine.

    Raises:
        ConfigError: data or weights are not named or not there, or there is no GPU.
    """
    if options.smoke:
        options.data = options.store / "data"
    elif options.data is None or not options.data.is_dir():
        raise ConfigError("name the folder of the data sets with --data, or try --smoke.")
    elif "od" in options.only and (options.vgg16 is None or not options.vgg16.is_file()):
        raise ConfigError("name the file of VGG16's weights with --vgg16, or leave out the stage od with --only.")
    else:
        import torch

        if not torch.cuda.is_available():
            raise ConfigError("there is no GPU here: try --smoke, which needs none.")
    for name in ("data", "vgg16", "out", "store"):
        path = getattr(options, name)
        setattr(options, name, None if path is None else path.absolute())  # the commands run in the checkout's folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages; returns 0 if none failed, 1 if one did, 2 for bad input, 130 after an interrupt."""
    options = parse(arguments)
    try:
        check(options)
        logs = options.store / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        return _through(stages(options), logs, options.out)
    except (BenchError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # a second one
        return 130


def _through(chosen: Sequence[Stage], logs: Path, out: Path) -> int:
    """Run stage after stage; what is to be kept is written after each, since the time may be over at any moment."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    reports: list[Report] = []
    text = ""
    for stage in chosen:
        print(f"{stage.name}: {len(stage.commands)} commands, at most {stage.seconds:.0f} s", flush=True)
        reports.append(run(stage, logs))
        text = keep(reports, logs, out)
        if reports[-1].interrupted:
            break
    print(f"\n{text}")
    if reports[-1].interrupted:
        return 130
    return int(any(report.status == "failed" for report in reports))


if __name__ == "__main__":
    sys.exit(terminal.piped(main))
