"""Wrong values for every setting: each must be refused in one sentence.

    python scripts/wrong_values.py [--every N] [--show]

Every setting of every task, model, optimizer, schedule and tracker gets each value of a list, most of which are wrong,
and is removed once. ``ACCEPTED`` lists the values that must be accepted; it is written by hand, independently of the
checks. All others must be refused in one sentence. With an accepted value it must be possible to make the run's
settings and its folder's name, and to take three steps with its optimizer and its schedule. No data are loaded, and no
process is started.
"""

from __future__ import annotations

import argparse
import copy
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

import torch
from hydra import compose as compose_config
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tmsgd_bench import terminal
from tmsgd_bench.engine import command_line, compose, explanations, plan
from tmsgd_bench.engine.optimizers import build_optimizer, build_schedulers
from tmsgd_bench.version import PROTOCOLS

CONF = Path(__file__).resolve().parents[1] / "conf"
REMOVED = "removed"
SYNTHETIC = "data=synthetic"
VALUES = {
    "null": "null",
    "true": "true",
    "minus": "-1",
    "zero": "0",
    "fraction": "1.5",
    "nan": "nan",
    "inf": "inf",
    "billion": "1000000000",
    "float": "1e9",
    "huge": str(10**30),
    "empty": "''",
    "word": "abc",
    "list": "[]",
    "pair": "[1,2]",
    "mapping": "{a:1}",
    "up": "'../x'",
    "slash": "a/b",
    "dot": ".x",
    "nul": "'a\0b'",
    "tag": "'<script>'",
    "reference": "${x}",
    "long": "x" * 5000,
}
"""The values as on the command line, each under a name."""

TEXT = "word up slash dot"
PATH = f"{TEXT} tag"
ACCEPTED = {
    # names and texts
    "*._target_": "",
    "optimizer.name": "word",
    "task.name": "word",
    "model.name": "word",
    "optimizer.label": TEXT,
    "task.reading": f"{PATH} removed",
    "task.datasets": "removed",
    "task.datasets.20*+20*": "",  # no command line can name it
    "task.datasets.20*": "word removed",
    "task.without_test": "removed",
    "task.without_test.splits": "removed",
    "results.root": PATH,
    "data.root": f"null {PATH}",
    "data.name": "null",
    "data.years": "null",
    "tracker.folder": PATH,
    "tracker.uri": f"null {TEXT}",
    "tracker.experiment": TEXT,
    "tracker.project": TEXT,
    # flags
    "deterministic": "true",
    "tf32": "true",
    "plan": "true",
    "force": "true",
    "save_weights": "true",
    "save_predictions": "true",
    "data.verify": "true",
    "prefix.*": "true",
    "task.channels_last": "true",
    "optimizer.fused": "null true removed",
    "optimizer.foreach": "null true removed",
    # counts
    "seed": "zero billion",
    "threads": "null",
    "workers": "zero",
    "checkpoint_seconds": "zero fraction billion float",
    "log_sharpness": "null billion",
    "sharpness_examples": "billion",
    "data.limit": "null billion",
    "task.*.limit": "null billion removed",
    "task.*.lrs": "removed",
    "task.*.lrs.*": "fraction removed",
    "task.*.models": f"{TEXT} removed",
    "switch_epoch": "zero billion",
    "task.evaluate_every": "billion",
    "task.min_count": "billion",
    "task.sample_epochs": "list pair",
    "optimizer.switch_epoch": "zero billion removed",
    "tmsgd_auto/optimizer.switch_epoch": "",
    "optimizer.restart_every_epochs": "null billion removed",
    "optimizer.warmup_steps": "zero billion removed",
    "optimizer.warmup.updates": "billion",
    "optimizer.auto_switch.every_epochs": "billion",
    "optimizer.auto_switch.patience": "billion",
    "optimizer.auto_switch.examples": "billion",
    "ctr/model.hidden": "list pair",
    "model.proposals.min_side": "zero",
    "model.frozen_stages": "zero",
    "od/model.hidden": "null",
    "model.head_width": "null",
    "model.test_proposals": "null billion",
    "model.flip": "true",
    "model.feature_scale": "fraction",
    # numbers
    "lr": "fraction",
    "optimizer.lr": "fraction",
    "optimizer.momentum": "zero removed",
    "optimizer.weight_decay": "zero fraction removed",
    "optimizer.eps": "zero fraction removed",
    "optimizer.beta": "zero removed",
    "optimizer.betas": "removed",
    "optimizer.scheme": "removed",
    "optimizer.rebound": "removed",
    "optimizer.warmup": "null removed",
    "model.proposals.sigma": "fraction",
    "task.label_smoothing": "zero",
    # schedules
    "schedule": "null",
    "schedule.every": "",
    "schedule.gamma": "fraction",
    "ic/schedule.gamma": "fraction removed",
    "schedule.start_lr": "fraction",
    "schedule.milestones": "list pair",
    "schedule.warmup_epochs": "zero fraction billion float",
    "schedule.epochs": "fraction billion float",
    "schedule.power": "fraction",
}
"""The names of the values that are fine, by the setting; those of a protocol are in ``accepted``."""


@dataclass(frozen=True)
class Case:
    """A value of a setting.

    Args:
        base: further settings of the command.
        key: the setting.
        value: the value's name, or "removed".
        accepted: whether it must be accepted.
    """

    base: tuple[str, ...]
    key: str
    value: str
    accepted: bool

    @property
    def override(self) -> str:
        """The setting on the command line."""
        return f"~{self.key}" if self.value == REMOVED else f"{self.key}={VALUES[self.value]}"


@dataclass(frozen=True)
class Verdict:
    """How the benchmark answered a case.

    Args:
        outcome: "refused", "accepted" or "traceback".
        message: the sentence, or the traceback.
    """

    outcome: str
    message: str = ""

    def fits(self, case: Case) -> bool:
        """Whether the answer is right: an accepted value, or a refusal in one sentence that names setting or value."""
        if self.outcome == "traceback" or (self.outcome == "accepted") != case.accepted:
            return False
        value = "'x'" if case.value == "reference" else VALUES.get(case.value, case.key)
        named = case.key.rpartition(".")[2] in self.message or value in self.message
        return self.outcome == "accepted" or (named and "\n" not in self.message)


BY_PROTOCOL = ("epochs", "lr", "batch_size", "switch_epoch", "schedule")
"""What every protocol has a value for."""


def bases() -> Iterator[tuple[tuple[str, ...], str]]:
    """Settings to start from, each with the prefix of the settings that are tried with them."""
    for task in _names("task"):
        yield (f"task={task}",), ""
    for task, models in {"ic": ("resnet18",), "od": ("fast_rcnn",)}.items():
        for model in models:
            yield (f"task={task}", f"model={model}"), "model"
    for optimizer in _names("optimizer"):
        yield (f"optimizer={optimizer}",), "optimizer"
    yield ("task=ic", "protocol=corrected"), "schedule"
    for tracker in _names("tracker"):
        yield (f"tracker={tracker}",), "tracker"


def _names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def settings(config: DictConfig) -> list[str]:
    """Every setting and every group of settings; see :func:`~tmsgd_bench.engine.explanations.setting_names`."""
    return explanations.setting_names(OmegaConf.to_container(config, resolve=False))


def accepted(config: DictConfig, key: str, value: str) -> bool:
    """Whether a value of a setting must be accepted, by ``ACCEPTED``."""
    head, _, rest = key.partition(".")
    protocol, _, inner = rest.partition(".")
    if key == "tracker._target_":  # none is what tracker=none has
        return value == "null" and config.tracker._target_ is None
    if head == "task" and protocol in PROTOCOLS:
        return _accepted_of_protocol(config, protocol, inner, value)
    return value in _accepted(config, key)


def _accepted(config: DictConfig, key: str) -> list[str]:
    """The accepted values of a setting: its entry for this task or optimizer, its general entry, or a pattern's."""
    patterns = (pattern for pattern in ACCEPTED if fnmatchcase(key, pattern))
    special = (f"{section.name}/{key}" for section in (config.task, config.optimizer))
    entry = next((name for name in (*special, key, *patterns) if name in ACCEPTED), None)
    return ACCEPTED[entry].split() if entry else []


def _accepted_of_protocol(config: DictConfig, protocol: str, inner: str, value: str) -> bool:
    """Whether a value of a protocol must be accepted. An entry that the run does not look up may be removed."""
    in_use = config.protocol == protocol
    if inner in ("", config.model.name):
        copied = protocol == "reduced" and inner == "" and "tuned" in config.task  # whose settings are these
        return value == REMOVED and not in_use and not copied
    of_model = inner.startswith(f"{config.model.name}.")
    inner = inner.removeprefix(f"{config.model.name}.")
    if of_model and value == REMOVED and inner in BY_PROTOCOL:
        return True  # the task's value is used then
    if inner in BY_PROTOCOL or inner.startswith("schedule."):
        nullable = inner == "switch_epoch" and value == "null" and not in_use
        return nullable or value in _accepted(config, inner)
    if inner.partition(".")[0] in ("lrs", "models"):
        return value in _accepted(config, f"task.{protocol}.{inner}")
    if inner == "weights_on_synthetic":
        return value in (REMOVED, "up", "slash")
    if inner == "keep_features" and value == "true":
        return not in_use  # it needs five frozen stages
    looked_up = in_use and (inner in config.model or inner in config.task)
    if value == REMOVED or (inner == "weights" and value in ("up", "slash")):  # the path of a file
        return not looked_up
    return any(value in _accepted(config, key) for key in (f"data.{inner}", f"task.{inner}", f"model.{inner}"))


def cases() -> Iterator[Case]:
    """Every value of every setting."""
    with initialize_config_dir(str(CONF)):
        composed = [(*base, compose_config("config", overrides=[*base[0], SYNTHETIC])) for base in bases()]
    for base, prefix, config in composed:
        for key in settings(config):
            if key.startswith(prefix) and not _of_another_model(config, key):
                for value in (*VALUES, REMOVED):
                    yield Case(base, key, value, accepted(config, key, value))


def _of_another_model(config: DictConfig, key: str) -> bool:
    """Whether a setting is what a protocol has for a model that the run does not train; it is not looked at."""
    parts = key.split(".")
    return parts[0] == "task" and len(parts) > 2 and parts[2] in {*_names("model")} - {config.model.name}


class Judge:
    """Composes each case's configuration as Hydra does. Bases are composed once, because that takes 0.1 seconds."""

    def __init__(self) -> None:
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._groups = {path.name for path in CONF.iterdir() if path.is_dir()}

    def __call__(self, case: Case) -> Verdict:
        """The benchmark's answer to a case."""
        try:
            use(self._composed(case))
        except Exception as error:
            sentence = explanations.explain(error, CONF)
            if sentence is None:
                return Verdict("traceback", "".join(traceback.format_exception(error)))
            return Verdict("refused", sentence)
        return Verdict("accepted")

    def _composed(self, case: Case) -> DictConfig:
        base = [*case.base, SYNTHETIC]
        with initialize_config_dir(str(CONF)):
            if case.key in self._groups:
                command_line.check_groups([case.override], CONF)
                return compose_config("config", overrides=[*base, case.override])
            if case.base not in self._bases:
                self._bases[case.base] = compose_config("config", overrides=base)
            with suppress(OmegaConfBaseException):
                return _overridden(self._bases[case.base], case.override)
            return compose_config("config", overrides=[*base, case.override])  # raises Hydra's own error


def _overridden(config: DictConfig, text: str) -> DictConfig:
    """A copy with one setting changed as Hydra would change it; not for groups."""
    changed = copy.deepcopy(config)
    (override,) = OverridesParser.create().parse_overrides([text])
    if not override.is_delete():
        OmegaConf.update(changed, override.key_or_group, override.value(), merge=True)
        return changed
    parent, _, key = override.key_or_group.rpartition(".")
    with open_dict(changed):
        del (OmegaConf.select(changed, parent) if parent else changed)[key]
    return changed


def use(config: DictConfig) -> None:
    """Use a configuration as far as is possible without data: its run, and three steps of optimizer and schedule."""
    plan.wanted(config)
    run = plan.of_config(config, in_sweep=False)
    root = run.options.results_root
    if run.folder.final.parent != root or run.spec.run_id.startswith("."):
        raise AssertionError(f"{run.folder.final} is not a run of {root}")
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = build_optimizer(run.spec.optimizer, [weight], steps_per_epoch=7)
    per_update, per_epoch = build_schedulers(run.spec.optimizer, run.spec.schedule, optimizer, 7)
    schedulers = [*per_update, *per_epoch]
    for _ in range(3):
        optimizer.zero_grad()
        weight.square().sum().backward()
        for stepped in (optimizer, *schedulers):
            stepped.step()


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the values, print wrong answers and totals; returns 1 if there was a wrong answer."""
    compose.ignore_version_warning()
    parser = argparse.ArgumentParser(description="Try wrong values of every setting.")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="one value in N")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="settings that match, such as optimizer.*")
    parser.add_argument("--show", action="store_true", help="print every sentence")
    options = parser.parse_args(arguments)
    judge, counts, wrong = Judge(), Counter[str](), 0
    chosen = (case for case in cases() if fnmatchcase(case.key, options.only))
    for case in islice(chosen, 0, None, options.every):
        verdict = judge(case)
        counts[verdict.outcome] += 1
        wrong += not verdict.fits(case)
        if options.show or not verdict.fits(case):
            should = "accepted" if case.accepted else "refused"
            print(
                f"{' '.join(case.base)} {case.override[:80]!r}: {verdict.outcome}, should be {should}: "
                f"{verdict.message}"
            )
    total = ", ".join(f"{number} {outcome}" for outcome, number in counts.items())
    print(f"{sum(counts.values())} values: {total}; {wrong} not as they should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(terminal.piped(main))
