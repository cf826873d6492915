"""Train one run, or with -m a sweep of runs. Every setting is in conf/; README.md shows the common ones."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

# Errors reach main() as they are, to be told in one sentence.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")

# version_base exists in Hydra 1.3 alone; what it would change is set in conf/config.yaml instead.
warnings.filterwarnings("ignore", message=r"\s*The version_base parameter")

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tmsgd_bench import interrupt
from tmsgd_bench.engine import command_line, compose, explanations, plan, progress, sweep
from tmsgd_bench.errors import BenchError, RunIsBusy
from tmsgd_bench.results.status import Status
from tmsgd_bench.results.store import RunFolder

log = logging.getLogger("run")
raised: list[Exception] = []
CONF = Path(__file__).resolve().parent / "conf"


def run_job(config: DictConfig) -> str:
    """Train what a composed configuration describes and return the outcome's status."""
    command_line.check_verbose(HydraConfig.get().verbose)
    if plan.wanted(config):
        print(plan.describe([plan.of_config(config, in_sweep=False)]))
        return "planned"
    choices = HydraConfig.get().runtime.choices
    options = compose.run_options(config, in_sweep=sweep.in_sweep())  # first: to know the run, data may be downloaded
    command_line.check_names(config, choices)
    spec = compose.run_spec(config, fetch=True)
    if options.force or not RunFolder(options.results_root, spec.run_id).finished():
        spec = spec.following(compose.followed_protocols(config, spec, choices))
    # Imported only now: torch takes seconds, which a wrong setting need not wait for.
    import tasks
    from tmsgd_bench.engine.runner import run

    outcome = run(spec, options, lambda device: compose.make_task(config, device, tasks.build))
    log.info("%s: %s: %s", outcome.run_id, outcome.status, outcome.note)
    if sweep.in_sweep():
        sweep.record(outcome.status, outcome.run_id, outcome.note, outcome.saved)
    return outcome.status


def sweep_job(config: DictConfig) -> str:
    """One job of a sweep: whatever goes wrong is recorded, and the other jobs go on."""
    try:
        sweep.record_start()
        return run_job(config)
    except KeyboardInterrupt:
        sweep.end_job()
        raise
    except RunIsBusy as error:
        status, note = Status.BUSY, str(error)
    except BenchError as error:
        status, note = Status.FAILED, str(error)
    except Exception as error:
        log.error("%s", "".join(traceback.format_exception(error)).rstrip())
        status, note = Status.FAILED, f"{type(error).__name__}: {error}"
    log.error("%s: %s", status, note)
    sweep.record(status, "", note)
    return status


@hydra.main(config_path=str(CONF), config_name="config")
def entry(config: DictConfig) -> str:
    """Hydra's entry point, called once for each job."""
    if sweep.in_sweep():
        return sweep_job(config)
    try:
        return run_job(config)
    except Exception as error:
        raised.append(error)  # raised again in main(): Hydra would announce it in words of its own
        return Status.FAILED


def main() -> int:
    """Run, and turn errors into one sentence and an exit code: 0 fine, 1 failed, 2 bad input, 128 + n for signal n."""
    progress.protect_streams()
    with interrupt.handled():
        return _run()


def _run() -> int:
    code = 0
    try:
        command_line.check_groups(sys.argv[1:], CONF)
        entry()
        if raised:
            raise raised.pop()
    except plan.PlanShown as shown:
        return _explain(shown.error) if shown.error else 0
    except KeyboardInterrupt:
        code = _interrupted()
    except Exception as error:  # that of a signal may become another one in the code that it interrupts
        code = _interrupted() if interrupt.asked() else _explain(error)
    folder = sweep.SweepCallback.folder
    if folder is not None and folder.exists():
        text, complete = sweep.summarise(folder)
        print(text)
        code = code or (0 if complete else 1)
    return code


def _interrupted() -> int:
    interrupt.ignore()
    print("interrupted: start the same command again to go on from the last checkpoint", file=sys.stderr)
    return interrupt.exit_code()


def _explain(error: Exception) -> int:
    sentence = explanations.explain(error, CONF)
    if sentence is None:
        traceback.print_exception(error)
        return 1
    print(f"error: {sentence}", file=sys.stderr)
    return 2


def cli() -> Any:
    code = main()
    for stream in progress.protect_streams():
        stream.settle()
    sys.exit(code)


if __name__ == "__main__":
    cli()
