"""Train one run, or with -m a sweep of runs. Every setting is in conf/; README.md shows the common ones."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

# Without this, Hydra prints errors itself; main() tells them in one sentence.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")

from tmsgd_bench import extras

with extras.explained():
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig

    from tmsgd_bench import escaping, interrupt
    from tmsgd_bench.engine import command_line, compose, explanations, plan, progress, sweep
    from tmsgd_bench.engine.outcome import Outcome
    from tmsgd_bench.errors import BenchError, RunIsBusy
    from tmsgd_bench.garbage import uncollected
    from tmsgd_bench.results.status import Status
    from tmsgd_bench.results.store import RunFolder

log = logging.getLogger("run")
raised: list[Exception] = []
CONF = Path(__file__).resolve().parent / "conf"
compose.ignore_version_warning()


def train(config: DictConfig) -> float | None:
    """Train the run that a composed configuration describes; returns its score (tmsgd_bench/engine/outcome.py)."""
    command_line.check_verbose(HydraConfig.get().verbose)
    runtime = HydraConfig.get().runtime
    if plan.wanted(config):
        planned = plan.of_config(config, in_sweep=False)
        command_line.check_names(config, runtime.choices, runtime.config_sources)
        print(plan.describe([planned]))
        return None
    options = compose.run_options(config, in_sweep=sweep.in_sweep())  # checked before run_spec, which may download data
    command_line.check_names(config, runtime.choices, runtime.config_sources)
    spec = compose.run_spec(config, fetch=True)
    if options.force or not RunFolder(options.results_root, spec.run_id).finished():
        spec = spec.following(compose.followed_protocols(config, spec, runtime.choices))
        if not spec.protocols:
            log.info("%s: these settings are no protocol's: it enters no table, but 'compare' shows it", spec.run_id)
    # Imported only here: torch takes seconds to import, and a wrong setting should be told at once.
    with uncollected():
        import tasks
        from tmsgd_bench.engine.runner import run

    outcome = run(spec, options, lambda device: compose.make_task(config, device, tasks.build))
    log.info("%s: %s: %s", outcome.run_id, outcome.status, outcome.note)
    if sweep.in_sweep():
        sweep.record(outcome)
    return outcome.score


def train_in_sweep(config: DictConfig) -> float | None:
    """Train one run of a sweep; returns its score. An error is recorded, and the other runs go on."""
    try:
        sweep.record_start()
        return train(config)
    except KeyboardInterrupt:
        sweep.record_interruption()
        raise
    except RunIsBusy as error:
        status, note = Status.BUSY, str(error)
    except BenchError as error:
        status, note = Status.FAILED, str(error)
    except Exception as error:
        log.error("%s", "".join(traceback.format_exception(error)).rstrip())
        status, note = Status.FAILED, f"{type(error).__name__}: {error}"
    log.error("%s: %s", status, note)
    sweep.record(Outcome("", status, note))
    return None


@hydra.main(config_path=str(CONF), config_name="config")
def entry(config: DictConfig) -> float | None:
    """Hydra calls this once for each run, and gives what it returns to the sweeper; each run's status is in its store.

    Returns:
        The run's primary metric after the last epoch, with its sign changed if larger is better: smaller is better.
        Infinity if the run diverged, None if it has no result.
    """
    if sweep.in_sweep():
        return train_in_sweep(config)
    try:
        return train(config)
    except Exception as error:
        raised.append(error)  # raised again in _run(): Hydra would print a message of its own
        return None


def main() -> int:
    """Run, and tell an error in one sentence.

    Returns:
        The exit code: 0 success, 1 a failed run, 2 bad input, 128 + n for signal n.
    """
    progress.protect_streams()
    sys.argv[1:] = command_line.settings_last(sys.argv[1:])
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
    except Exception as error:  # the code that a signal interrupts may turn its exception into another one
        code = _interrupted() if interrupt.asked() else _explain(error)
    folder = sweep.SweepCallback.folder
    if folder is not None and folder.exists():
        text, complete = sweep.summarise(folder)
        print(escaping.lines(text))
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
    print(escaping.lines(f"error: {sentence}"), file=sys.stderr)
    return 2


def cli() -> Any:
    code = main()
    for stream in progress.protect_streams():
        stream.settle()
    sys.exit(code)


if __name__ == "__main__":
    cli()
