"""Sweeps through each launcher, from a folder outside the checkout, with a worker killed in the middle."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import commands
import pytest
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from hydra_plugins import tmsgd_launchers
from tmsgd_bench import files
from tmsgd_bench.engine import explanations, sweep, workers
from tmsgd_bench.errors import ConfigError, StoreError
from tmsgd_bench.results import store

ROOT = Path(__file__).resolve().parents[1]
SEEDS, EPOCHS, SWITCH = 3, 4, 2
EACH = (
    "protocol=smoke",
    "data=synthetic",
    "data.limit=20",
    f"epochs={EPOCHS}",
    "device=cpu",
    "data.root=data",  # relative: wherever a worker runs, it is meant from where the sweep was started
)
SETTINGS = (
    *EACH,
    "task._target_=noted.Noted",
    "optimizer=tmsgd,sgd",
    f"switch_epoch={SWITCH}",
    f"seed=range({SEEDS})",
    "checkpoint_seconds=0",
    "results.root=runs",
)
TRAINED = SEEDS * (EPOCHS + EPOCHS - SWITCH)  # epochs: each trunk's once, then TM-SGD's own
KILLED = 2  # a seed

NOTED_TASK = """
import os
import signal
from pathlib import Path

import torch
from toy import ToyTask

FOLDER = Path(__file__).parent


class Noted(ToyTask):
    def __init__(self, settings, **options):
        super().__init__(settings, self.meet_a_signal_once)

    def training_step(self, batch, optimizers):
        self.taylor = any(type(optimizer).__name__ == "TMSGD" for optimizer in optimizers.values())
        return super().training_step(batch, optimizers)

    def meet_a_signal_once(self, epoch, step):
        self.now = epoch
        order = FOLDER / f"signal-{self.settings.seed}"
        if (epoch, step) == (3, 1) and self.taylor and order.exists():
            number = int(order.read_text())
            order.unlink()
            os.kill(os.getpid(), number)

    def evaluate(self):
        with (FOLDER / "epochs").open("a") as file:
            threads = f"{torch.get_num_threads()} {os.environ.get('OMP_NUM_THREADS')}"
            file.write(f"{self.settings.seed} {self.now} threads {threads}\\n")
        return super().evaluate()
"""
"""A small task that notes every finished epoch. In the fourth one of TM-SGD, which then has a checkpoint of its own, it
sends itself a signal, once, where one is laid for its seed."""

COUNTED_TASK = """
import os
import signal
import time
from pathlib import Path

from toy import ToyTask

from tmsgd_bench import interrupt

FOLDER = Path(__file__).parent


class Counted(ToyTask):
    def __init__(self, settings, **options):
        super().__init__(settings, self.kill_the_sweep_once)

    def kill_the_sweep_once(self, epoch, step):
        self.now = epoch
        if (epoch, step) == (2, 1) and not (FOLDER / "killed").exists():
            (FOLDER / "killed").touch()
            os.kill(os.getppid(), signal.SIGKILL)
            while not interrupt.asked():
                time.sleep(0.05)

    def evaluate(self):
        with (FOLDER / "counted-epochs").open("a") as file:
            file.write(f"{self.now}\\n")
        return super().evaluate()
"""
"""A small task that notes every finished epoch, and in the third one kills its sweep's main process, once,
and goes on when it notices."""

Sweep = Callable[..., tuple[int | None, str]]


def needs(plugin: str) -> pytest.MarkDecorator:
    """Skip, visibly, without the plugin that an extra installs."""
    missing = importlib.util.find_spec(f"hydra_plugins.{plugin}") is None
    return pytest.mark.skipif(missing, reason=f"{plugin} is not installed: see docs/scale.md for its extra")


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """The folder of the small tasks' modules, where they leave their notes and look for signals."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "noted.py").write_text(NOTED_TASK)
    (folder / "counted.py").write_text(COUNTED_TASK)
    return folder


@pytest.fixture
def start(tmp_path: Path, modules: Path) -> Sweep:
    """Start a sweep, in a folder outside the checkout, and wait for its end and its workers'.

    Its main process is forked; with ``fresh=True`` it is a new interpreter, like its workers. Returns its exit code and
    what all of them printed.
    """
    elsewhere, said = tmp_path / "elsewhere", tmp_path / "said"
    elsewhere.mkdir()
    os.mkfifo(said)  # ends when all that write to it have ended, the workers, too
    paths = os.pathsep.join([str(modules), str(ROOT / "tests"), str(ROOT / "tests/engine")])

    def call(*arguments: str, fresh: bool = False) -> tuple[int | None, str]:
        environment = {key: value for key, value in os.environ.items() if key not in workers.THREADS}
        environment["PYTHONPATH"] = paths
        if fresh:
            return run_fresh(arguments, elsewhere, environment)
        process = commands.start_sweep(arguments, said, elsewhere, environment)
        printed = said.read_text()
        return commands.end(process), printed

    return call


def run_fresh(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """Start a sweep in a new interpreter, and wait for its end and its workers'."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), "-m", *arguments],
        stdout=subprocess.PIPE,  # to its end, which comes when the workers have ended, too
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
        cwd=folder,
        env=environment,
        start_new_session=True,
        check=False,
    )
    return done.returncode, done.stdout


def epochs_noted(modules: Path) -> Counter[str]:
    """How often each epoch of each seed was trained to its end."""
    return Counter(line.partition(" threads")[0] for line in (modules / "epochs").read_text().splitlines())


def check_all_done(tmp_path: Path, modules: Path, runs: int, killed: int) -> None:
    """Every run has its result, that of the killed seed went on from its checkpoint, and each job had one thread."""
    root = tmp_path / "elsewhere/runs"
    assert [result["status"] for result in results(root).values()] == runs * ["done"]
    (folder,) = root.glob(f"*tmsgd-switch{SWITCH}-seed{killed}-*")
    environment = files.read_json(folder / store.ENVIRONMENT) or {}
    assert len(environment["before"]) == 1 and "resumed" in environment
    assert environment["threads"] == 1
    assert {line.partition("threads ")[2] for line in (modules / "epochs").read_text().splitlines()} == {"1 1"}
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["data", "runs"]


def results(root: Path) -> dict[str, dict[str, Any]]:
    """The results of a store by run id."""
    return {path.parent.name: files.read_json(path) or {} for path in root.glob(f"*/{store.RESULT}")}


def summary(printed: str) -> str:
    """What the sweep printed at its end."""
    assert "sweep: " in printed, printed
    return printed[printed.index("sweep: ") :]


# Kills and preemptions


@needs("hydra_joblib_launcher")
def test_joblib_goes_on_after_a_killed_worker_with_fewer_runs_at_a_time(
    start: Sweep, tmp_path: Path, modules: Path
) -> None:
    """joblib takes the killed worker's neighbours down with it; one of them may be at the very end of an epoch."""
    (modules / f"signal-{KILLED}").write_text(str(signal.SIGKILL.value))
    code, said = start(*SETTINGS, "hydra/launcher=cores", "hydra.launcher.n_jobs=2", fresh=True)
    assert code == 1 and "Traceback" not in said, said
    assert "a worker was lost" in said and "with fewer runs at a time" in said
    assert " unfinished" in (told := summary(said)) and "it was not started; the same command starts it" in told
    code, said = start(*SETTINGS, "hydra/launcher=cores", "hydra.launcher.n_jobs=1")
    assert code == 0, said
    check_all_done(tmp_path, modules, runs=2 * SEEDS, killed=KILLED)
    assert TRAINED <= epochs_noted(modules).total() <= TRAINED + 1


@needs("hydra_joblib_launcher")
def test_a_parallel_sweep_killed_in_the_middle_goes_on_with_the_same_command(
    start: Sweep, tmp_path: Path, modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its main process, by kill -9, while one worker trains the trunk and the other waits: both end soon, with what
    they have trained, and the same command goes on.

    The two jobs of SGD are one run, for which the other worker waits. Workers look every half second whether their
    sweep lives; so it may get to finish that run before it looks.
    """
    settings = (*EACH, "task._target_=counted.Counted", "optimizer=sgd,tmsgd", "switch_epoch=1,3")
    command = (*settings, "results.root=runs", "checkpoint_seconds=1000", "hydra/launcher=joblib")
    code, _ = start(*command, "hydra.launcher.n_jobs=2")
    assert code == -signal.SIGKILL
    root = tmp_path / "elsewhere/runs"
    finished = len(results(root))
    assert finished <= 1 and len(list(root.glob(".trunks/*/pending/*"))) == 3 - finished
    code, said = start(*command, "hydra.launcher.n_jobs=1")
    assert code == 0, said
    assert summary(said).startswith(f"sweep: {3 - finished} done, {1 + finished} skipped\n  4 epochs saved")
    assert len((modules / "counted-epochs").read_text().splitlines()) == 4 + 3 + 1
    assert sum(4 - result["prefix"]["saved"] for result in results(root).values()) == 4 + 3 + 1
    assert not (root / ".trunks").exists()
    train_here(monkeypatch, tmp_path, *settings, "prefix=off", "results.root=alone")
    digests = [
        {run_id: result["weights_sha256"] for run_id, result in results(tmp_path / f"elsewhere/{name}").items()}
        for name in ("runs", "alone")
    ]
    assert digests[0] == digests[1]


def train_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> None:
    """The sweep, one run after the other in this process."""
    for folder in (ROOT, ROOT / "tests/engine", tmp_path / "modules"):
        monkeypatch.syspath_prepend(str(folder))
    import run

    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sweep.SweepCallback, "folder", None)
    monkeypatch.setattr(sys, "argv", ["run.py", "-m", *arguments])
    assert run.main() == 0


@needs("hydra_ray_launcher")
def test_ray_tries_a_killed_job_again(start: Sweep, tmp_path: Path, modules: Path) -> None:
    (modules / f"signal-{KILLED}").write_text(str(signal.SIGKILL.value))
    code, said = start(*SETTINGS, "hydra/launcher=ray_local", "hydra.launcher.ray.init.num_cpus=2")
    assert code == 0, said
    assert summary(said).startswith(f"sweep: {2 * SEEDS} done\n")
    check_all_done(tmp_path, modules, runs=2 * SEEDS, killed=KILLED)
    assert epochs_noted(modules).total() == TRAINED


@needs("hydra_submitit_launcher")
def test_submitit_resumes_what_is_preempted_and_the_same_command_what_is_killed(
    start: Sweep, tmp_path: Path, modules: Path
) -> None:
    """Preempted by the signal that Slurm would send; both within one sweep."""
    preempted, killed = 0, 1
    (modules / f"signal-{killed}").write_text(str(signal.SIGKILL.value))
    (modules / f"signal-{preempted}").write_text(str(signal.SIGUSR2.value))
    command = (*SETTINGS, "optimizer=tmsgd", "seed=range(2)", "hydra/launcher=slurm_local")
    code, said = start(*command, "hydra.launcher.array_parallelism=2")
    assert code == 1 and "Traceback" not in said, said
    assert summary(said).startswith("sweep: 1 done, 1 unfinished\n")
    assert f"seed={killed} " in summary(said) and ": its process ended without an outcome" in summary(said)
    code, said = start(*command, "hydra.launcher.array_parallelism=2")
    assert code == 0, said
    assert summary(said).startswith("sweep: 1 done, 1 skipped\n")
    check_all_done(tmp_path, modules, runs=2, killed=killed)
    assert epochs_noted(modules).total() == 2 * EPOCHS
    (folder,) = (tmp_path / "elsewhere/runs").glob(f"*tmsgd-switch{SWITCH}-seed{preempted}-*")
    assert "resumed" in (files.read_json(folder / store.ENVIRONMENT) or {})


FAKE_SLURM = """
import os
import re
import subprocess
import sys
from pathlib import Path

HERE, name, (first, *rest) = Path(__file__).parent, Path(sys.argv[0]).name, sys.argv[1:]


def environment(job):
    array, _, index = job.partition("_")
    ones = dict.fromkeys(("SLURM_NTASKS", "SLURM_JOB_NUM_NODES"), "1")
    zeros = dict.fromkeys(("SLURM_NODEID", "SLURM_PROCID", "SLURM_LOCALID"), "0")
    own = {"SLURM_JOB_ID": job, "SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": index}
    return {**os.environ, **ones, **zeros, **own}


if name == "sbatch":
    last = re.search("--array=0-([0-9]+)", Path(first).read_text())[1]
    for index in range(int(last) + 1):
        node = [sys.executable, str(HERE / "node"), first, f"1000_{index}"]
        subprocess.Popen(node, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print("Submitted batch job 1000")
elif name == "srun":
    command = sys.argv[sys.argv.index(sys.executable) :]
    os.execv(command[0], command)
elif name == "scontrol":
    (HERE / f"requeue-{rest[0]}").touch()
elif name == "sacct":
    print("JobID|State|NodeList")
elif name == "node":
    again = HERE / f"requeue-{rest[0]}"
    again.touch()
    while again.exists():
        again.unlink()
        subprocess.run(["bash", first], env=environment(rest[0]))
"""
"""As much of sbatch, srun, scontrol and sacct as submitit needs; sacct knows nothing yet, as it does at first."""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands that stand in for Slurm's, first in the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "srun", "scontrol", "sacct", "node"):
        (folder / name).write_text(f"#!{sys.executable}\n{FAKE_SLURM}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@needs("hydra_submitit_launcher")
def test_slurm_gets_one_array_and_queues_a_preempted_job_again(
    slurm: Path, start: Sweep, tmp_path: Path, modules: Path
) -> None:
    """With commands that stand in for Slurm's: what it does itself is not tested here."""
    (modules / "signal-1").write_text(str(signal.SIGUSR2.value))
    launcher = ("hydra/launcher=slurm", "hydra.launcher.partition=small")
    code, said = start(*SETTINGS, *launcher, "optimizer=tmsgd", "seed=range(2)")
    assert code == 0, said
    assert summary(said).startswith("sweep: 2 done\n")
    assert epochs_noted(modules).total() == 2 * EPOCHS
    (preempted,) = (tmp_path / "elsewhere/runs").glob("*-seed1-*")
    assert "resumed" in (files.read_json(preempted / store.ENVIRONMENT) or {})
    (script,) = (tmp_path / "elsewhere/runs").glob(".sweeps/*/*/.submitit/*/*_submission.sh")
    lines = script.read_text().splitlines()
    for flag in ("array=0-1%2", "partition=small", "time=240", "cpus-per-task=1", "signal=USR2@120", "requeue"):
        assert f"#SBATCH --{flag}" in lines


# Settings and errors


def test_a_sweeper_that_is_not_installed_is_named_with_its_extra() -> None:
    missing = MissingConfigException("missing", missing_cfg_file="hydra/sweeper/optuna", options=["basic"])
    said = explanations.explain(missing, ROOT / "conf")
    assert said == "hydra/sweeper=optuna is not installed: pip install -e '.[optuna]'."


@pytest.mark.parametrize(
    ("launcher", "plugin", "extra"),
    [
        ("cores", "joblib", "parallel"),
        ("ray_local", "ray", "ray"),
        ("ray_cluster", "ray", "ray"),
        ("slurm", "submitit_slurm", "slurm"),
        ("slurm_local", "submitit_slurm", "slurm"),
    ],
)
def test_a_launcher_that_is_not_installed_is_named_with_its_extra(launcher: str, plugin: str, extra: str) -> None:
    text = (ROOT / f"conf/hydra/launcher/{launcher}.yaml").read_text()
    assert f"\n  - {plugin}\n" in text or "\n  - ray_local\n" in text or "\n  - slurm\n" in text
    missing = MissingConfigException("missing", missing_cfg_file=f"hydra/launcher/{plugin}", options=["basic"])
    assert (
        explanations.explain(missing, ROOT / "conf")
        == f"hydra/launcher={plugin} is not installed: pip install -e '.[{extra}]'."
    )


def test_jobs_and_their_threads_fill_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 8)
    counts = {threads: workers.jobs_at_once(threads) for threads in (1, 2, 3, 8, 16, None, 0, "two")}
    assert counts == {1: 8, 2: 4, 3: 2, 8: 1, 16: 1, None: 8, 0: 8, "two": 8}
    assert workers.cores() == 8


def sweep_config(device: str = "cpu", threads: int | None = 1, **launcher: Any) -> Any:
    main = SimpleNamespace(provider="main", path="/checkout/conf")
    hydra = SimpleNamespace(launcher=OmegaConf.create(launcher), runtime=SimpleNamespace(config_sources=[main]))
    return SimpleNamespace(device=device, threads=threads, hydra=hydra)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """In place of the process's own environment."""
    found = {"PYTHONPATH": "/mine"}
    monkeypatch.setattr(os, "environ", found)
    return found


def test_workers_find_the_checkout_and_their_threads(environment: dict[str, str]) -> None:
    workers.prepare(sweep_config(threads=3, _target_="some.Launcher"))
    expected = {"PYTHONPATH": f"/checkout{os.pathsep}/mine", **dict.fromkeys(workers.THREADS, "3")}
    assert {key: environment[key] for key in expected} == expected


@pytest.mark.parametrize(("threads", "target"), [(None, "some.Launcher"), (2, "hydra.BasicLauncher")])
def test_threads_are_left_alone_if_they_are_torchs_choice_or_no_process_is_started(
    threads: int | None, target: str, environment: dict[str, str]
) -> None:
    workers.prepare(sweep_config(threads=threads, _target_=target))
    assert not set(environment) & set(workers.THREADS)


def test_no_jobs_at_once_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="n_jobs must be how many runs"):
        workers.prepare(sweep_config(_target_="some.Cores", n_jobs=0))


@pytest.mark.parametrize(
    ("launcher", "local"),
    [
        ({"_target_": "hydra_plugins.tmsgd_launchers.Cores"}, True),
        ({"_target_": "hydra_plugins.tmsgd_launchers.SlurmLocal"}, True),
        ({"_target_": "hydra_plugins.tmsgd_launchers.Slurm"}, False),
        ({"_target_": "hydra_plugins.tmsgd_launchers.Ray", "ray": {"init": {"address": "local"}}}, True),
        ({"_target_": "hydra_plugins.tmsgd_launchers.Ray", "ray": {"init": {"address": "auto"}}}, False),
    ],
)
def test_jobs_end_with_their_sweep_where_it_is_on_their_machine(launcher: dict[str, Any], local: bool) -> None:
    assert workers.are_local(sweep_config(**launcher)) is local


def test_ray_is_not_asked_for_what_it_would_wait_for_in_vain(environment: dict[str, str]) -> None:
    def ray(gpus: float = 0, cpus: int | None = 1, cores: int | None = 2, address: str = "local") -> dict[str, Any]:
        return {"init": {"num_cpus": cores, "address": address}, "remote": {"num_gpus": gpus, "num_cpus": cpus}}

    with pytest.raises(ConfigError, match=r"no run is given a GPU.*num_gpus=0\.25"):
        workers.prepare(sweep_config(device="cuda", ray=ray()))
    with pytest.raises(ConfigError, match="wants 3 cores of Ray, which has 2"):
        workers.prepare(sweep_config(ray=ray(cpus=3)))
    for fine in (ray(gpus=0.5), ray(cpus=None), ray(cpus=3, cores=None, address="auto")):
        workers.prepare(sweep_config(device="cuda" if fine["remote"]["num_gpus"] else "cpu", ray=fine))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception, bool], tmsgd_launchers.Ray]:
    """A function that makes the launcher of a Ray that raises, running or not."""

    def make(error: Exception, running: bool) -> tmsgd_launchers.Ray:
        def launch(*_: Any) -> None:
            raise error

        plugin = SimpleNamespace(RayLauncher=lambda **_: SimpleNamespace(launch=launch))
        exceptions = SimpleNamespace(RayError=type("RayError", (Exception,), {}))
        monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_ray_launcher.ray_launcher", plugin)
        monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: running))
        monkeypatch.setitem(sys.modules, "ray.exceptions", exceptions)
        return tmsgd_launchers.Ray()

    return make


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("Could not find any running Ray instance."), "no Ray cluster answers .*'ray start --head'"),
        (Exception("The current node timed out\nduring startup."), "Ray did not start .The current node timed out dur"),
        (RuntimeError("Version mismatch"), "Ray did not start .Version mismatch.*hydra/launcher=cores"),
    ],
)
def test_a_ray_that_does_not_start_is_told_in_a_sentence(
    error: Exception, message: str, ray: Callable[[Exception, bool], tmsgd_launchers.Ray]
) -> None:
    with pytest.raises(ConfigError, match=message):
        ray(error, False).launch([], 0)


def test_an_error_of_a_running_ray_is_left_as_it_is(ray: Callable[[Exception, bool], tmsgd_launchers.Ray]) -> None:
    with pytest.raises(ZeroDivisionError):
        ray(ZeroDivisionError(), True).launch([], 0)


@needs("hydra_joblib_launcher")
@pytest.mark.parametrize(("wanted", "started"), [(100_000, 2), (1, 1), (-1, 2), (-3, 1)])
def test_joblib_starts_no_more_workers_than_there_are_jobs(
    wanted: int, started: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep.SweepCallback, "folder", tmp_path)
    monkeypatch.setattr("joblib.effective_n_jobs", lambda wanted: wanted if wanted > 0 else max(1, 3 + 1 + wanted))
    cores, workers = tmsgd_launchers.Cores(n_jobs=wanted), list[int]()

    def launch(jobs: Sequence[Sequence[str]], first: int) -> Sequence[Any]:
        workers.append(cores.inner.joblib["n_jobs"])
        return [sweep.job_return(job, None) for job in jobs]

    monkeypatch.setattr(cores.inner, "launch", launch)
    cores.launch([["seed=0"], ["seed=1"]], 0)
    cores.launch([["seed=2"]], 2)
    assert workers == [started, 1]
    assert cores.inner.joblib["n_jobs"] == wanted


@needs("hydra_joblib_launcher")
def test_runs_that_would_wait_for_each_other_start_later_and_are_answered_in_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep.SweepCallback, "folder", tmp_path)
    monkeypatch.setattr(sweep, "start_order", lambda numbers, at_once: [0, 2, 1][: len(numbers)])
    cores, started = tmsgd_launchers.Cores(n_jobs=2), list[str]()

    def launch(jobs: Sequence[Sequence[str]], first: int) -> Sequence[Any]:
        started.extend(job[0] for job in jobs)
        return [sweep.job_return(job, float(job[0][-1])) for job in jobs]

    monkeypatch.setattr(cores.inner, "launch", launch)
    answers = cores.launch([["seed=0"], ["seed=1"], ["seed=2"]], 0)
    assert started == ["seed=0", "seed=2", "seed=1"]
    assert [answer.return_value for answer in answers] == [0.0, 1.0, 2.0]


def test_a_folder_that_another_machine_does_not_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"started in .*/none, which cannot be entered on .*all machines share"):
        workers.enter(str(tmp_path / "none"))


def test_a_job_that_never_started_is_in_the_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep.SweepCallback, "folder", tmp_path)
    sweep.record_waiting(0, ["seed=0"])
    text, complete = sweep.summarise(tmp_path)
    assert text == "sweep: 1 unfinished\n  unfinished: seed=0: it was not started; the same command starts it"
    assert not complete


@needs("hydra_joblib_launcher")
def test_a_sweep_that_loses_a_worker_still_gives_an_answer_for_every_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order: a sweeper that learns from them must not take one run's metric for another's."""
    from joblib.externals.loky.process_executor import BrokenProcessPool

    def lose(*_: Any) -> None:
        files.write_json(tmp_path / "job-00006.json", {"overrides": ["seed=1"], "status": "done", "score": -90.5})
        raise BrokenProcessPool("A worker process was unexpectedly terminated: SIGKILL(-9)")

    monkeypatch.setattr(sweep.SweepCallback, "folder", tmp_path)
    monkeypatch.setattr(tmsgd_launchers.shared_memory, "check", lambda *_: None)
    cores = tmsgd_launchers.Cores(n_jobs=2)
    monkeypatch.setattr(cores.inner, "launch", lose)
    assert [answer.return_value for answer in cores.launch([["seed=0"], ["seed=1"]], 5)] == [None, -90.5]


@needs("hydra_submitit_launcher")
def test_a_run_that_slurm_need_not_train_keeps_its_place_among_the_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep.SweepCallback, "folder", tmp_path)
    slurm = tmsgd_launchers.SlurmLocal(submitit_folder=str(tmp_path))
    skipped = {0: None, 1: sweep.job_return(["seed=1"], -2.0), 2: None}
    monkeypatch.setattr(slurm, "_skip_finished", lambda number, _: skipped[number])
    monkeypatch.setattr(slurm, "_executor", lambda: None)
    monkeypatch.setattr(slurm, "submit", lambda _, calls: [call[2] for call in calls])
    monkeypatch.setattr(slurm, "_outcome", lambda job, number: sweep.job_return([], -1.0 - 10 * job))
    answers = slurm.launch([["seed=0"], ["seed=1"], ["seed=2"]], 0)
    assert [answer.return_value for answer in answers] == [-1.0, -2.0, -21.0]
