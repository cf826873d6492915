"""A run's identity depends on what determines its result, and on nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy import make_spec

from tmsgd_bench import seeding
from tmsgd_bench.engine import schema
from tmsgd_bench.engine.spec import AutoSwitchPlan, RunOptions, RunSpec, validate
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.results import packed, store
from tmsgd_bench.version import BENCHMARK_VERSION


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"epochs": 7},
        {"batch_size": 6},
        {"tf32": True},
        {"schedule": None},
        {"task": {"name": "other", "dataset": "none"}},
        {"model": {"name": "wide"}},
        {"data": {"kind": "real", "limit": None, "fingerprint": "toy"}},
        {"data": {"kind": "synthetic", "limit": 10, "fingerprint": "toy"}},
        {"data": {"kind": "synthetic", "limit": None, "fingerprint": "other"}},
    ],
)
def test_whatever_determines_the_result_changes_the_identity(change: dict[str, Any]) -> None:
    spec = make_spec()
    assert replace(spec, **change).identity != spec.identity


@pytest.mark.parametrize("option", [{"lr": 0.06}, {"switch_epoch": 4}, {"momentum": 0.1}, {"scheme": "euler"}])
def test_every_option_of_the_optimizer_changes_the_identity(option: dict[str, Any]) -> None:
    assert make_spec(**option).identity != make_spec().identity


def test_labels_key_order_and_number_notation_do_not_change_the_identity() -> None:
    spec = make_spec(lr=1.0)
    turned = dict(reversed(spec.optimizer.items()))
    for same in (
        replace(spec, optimizer={**spec.optimizer, "label": "another label"}),
        replace(spec, optimizer=turned),
        replace(spec, optimizer={**spec.optimizer, "lr": 1}),
        spec.following(("table2",)),
    ):
        assert same.identity == spec.identity


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "^epochs "),
        ({"epochs": 1.5}, "^epochs "),
        ({"epochs": True}, "^epochs "),
        ({"batch_size": 0}, "^batch_size .*16,777,216"),
        ({"seed": -1}, "^seed "),
        ({"seed": "x"}, "^seed "),
        ({"data": {"kind": "real", "limit": 0, "fingerprint": ""}}, "^data.limit "),
    ],
)
def test_a_number_out_of_range_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(replace(make_spec(), **change))


@pytest.mark.parametrize("lr", [-0.1, 0.0, float("nan"), float("inf"), "fast", None, True])
def test_a_learning_rate_that_is_not_a_positive_number_is_refused(lr: Any) -> None:
    with pytest.raises(ConfigError, match=r"^lr "):
        validate(make_spec(lr=lr))


@pytest.mark.parametrize("switch", [-1, 2.5, "late"])
def test_a_switch_epoch_that_is_not_a_count_is_refused(switch: Any) -> None:
    with pytest.raises(ConfigError, match=r"^switch_epoch "):
        validate(make_spec(switch_epoch=switch))


PLAN = {"every_epochs": 1, "margin": 0.5, "patience": 3, "examples": 20}


def test_a_run_may_choose_its_switch_epoch_itself() -> None:
    spec = validate(make_spec("tmsgd_auto"))
    assert (spec.switch_epoch, spec.switches, spec.auto_switch) == ("auto", None, AutoSwitchPlan(**PLAN))
    assert spec.run_id.startswith("toy-linear-tmsgd_auto-switchauto-seed0-")
    assert make_spec("tmsgd").auto_switch is None


@pytest.mark.parametrize("change", [{"every_epochs": 2}, {"margin": 0.4}, {"patience": 2}, {"examples": 19}])
def test_how_a_run_chooses_its_switch_is_part_of_its_identity(change: dict[str, Any]) -> None:
    assert make_spec("tmsgd_auto", auto_switch=PLAN | change).identity != make_spec("tmsgd_auto").identity


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("tmsgd", {"switch_epoch": "auto"}, "switch_epoch=auto .*use optimizer=tmsgd_auto"),
        ("tmsgd_auto", {"switch_epoch": 5}, "chooses its switch epoch itself: .*or use optimizer=tmsgd"),
        ("tmsgd_auto", {"switch_epoch": None}, "chooses its switch epoch itself"),
        ("tmsgd_auto", {"auto_switch": None}, "use optimizer=tmsgd_auto"),
        (
            "tmsgd_auto",
            {"auto_switch": 3},
            "must be null or have the keys every_epochs",
        ),
        ("tmsgd_auto", {"auto_switch": {"margin": 0.5}}, "setting .*every_epochs. is missing"),
        ("tmsgd_auto", {"auto_switch": PLAN | {"margn": 1}}, "margn.: did you mean .margin"),
        *(
            ("tmsgd_auto", {"auto_switch": PLAN | {key: value}}, f"auto_switch.{key} ")
            for key in ("every_epochs", "patience", "examples")
            for value in (0, 1.5, True, "1", None)
        ),
        *(
            (
                "tmsgd_auto",
                {"auto_switch": PLAN | {"margin": value}},
                "auto_switch.margin ",
            )
            for value in (0.0, -1, 1.5, float("nan"), True, "0.5", None)
        ),
    ],
)
def test_a_plan_of_the_switch_that_cannot_be_used_is_refused(name: str, option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(make_spec(name, **option))


PUBLISHED = sorted((Path(__file__).parents[2] / "results").glob("**/runs.parquet"))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.parent.name)
def test_published_runs_keep_their_identity(path: Path) -> None:
    """From its stored settings a run gets the name it was published under: the same command still finds it done."""
    for run_id in packed.read(path):
        stored = store.whole(path / run_id).settings
        assert stored.pop("benchmark_version") == BENCHMARK_VERSION
        spec = validate(RunSpec(**{**stored, "protocols": tuple(stored["protocols"])}))
        schema.check_optimizer(spec.optimizer)
        schema.check_schedule("schedule", spec.schedule)
        assert spec.run_id == run_id


@given(seed=st.integers(0, 10**9), epoch=st.integers(0, 1000), size=st.integers(1, 200))
def test_an_epochs_order_is_a_permutation_of_its_seed_and_epoch(seed: int, epoch: int, size: int) -> None:
    torch.rand(3)  # the global stream plays no part
    order = seeding.epoch_order(size, seed, epoch)
    assert torch.equal(order, seeding.epoch_order(size, seed, epoch))
    assert torch.equal(order.sort().values, torch.arange(size))


@given(size=st.integers(1, 300), limit=st.none() | st.integers(1, 400))
def test_a_subset_is_fixed_sorted_and_of_the_asked_size(size: int, limit: int | None) -> None:
    kept = seeding.subset(size, limit)
    assert len(kept) == min(size, limit or size)
    assert torch.equal(kept, kept.unique()) and int(kept.max()) < size
    assert torch.equal(kept, seeding.subset(size, limit))


def test_streams_of_different_purposes_differ() -> None:
    seeds = {
        seeding.derive(seed, *purpose) for seed in (0, 1) for purpose in (("weights",), ("order", 0), ("order", 1))
    }
    assert len(seeds) == 6 and all(0 <= value < 2**63 for value in seeds)


def test_run_ids_are_readable_and_unique() -> None:
    spec = make_spec()
    assert spec.run_id.startswith("toy-linear-tmsgd-switch3-seed0-")
    assert isinstance(spec, RunSpec) and spec.run_id != make_spec(lr=0.06).run_id


# --- options -------------------------------------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {
    **dict.fromkeys(("deterministic", "force", "save_weights", "save_predictions"), False),
    **{"device": "auto", "threads": 1, "checkpoint_seconds": 30, "progress": "auto"},
    **{"log_sharpness": None, "sharpness_examples": 1000, "tracker": None},
    "results": {"root": "~/runs"},
    "prefix": {"share": "auto", "keep": True},
    "data": {"kind": "real", "verify": False},
}


@pytest.mark.parametrize("in_sweep", [False, True])
def test_options_are_read_from_their_settings(in_sweep: bool) -> None:
    """Runs of a sweep share their prefixes, wait for each other, and write log lines, unless told otherwise."""
    options = RunOptions.of(SETTINGS, in_sweep)
    assert options.results_root == Path.home() / "runs" and options.keep_trunks and not options.verified_data
    assert (options.share_prefix, options.wait, options.progress) == (in_sweep, in_sweep, "log" if in_sweep else "auto")
    told = RunOptions.of({**SETTINGS, "prefix": {"share": not in_sweep, "keep": False}, "progress": "bar"}, in_sweep)
    assert (told.share_prefix, told.progress) == (not in_sweep, "bar")


def test_every_option_but_whole_groups_has_a_check_that_its_default_passes() -> None:
    checks = RunOptions.checks()
    assert set(checks) == set(SETTINGS) - {"data", "tracker"}
    for name, check in checks.items():
        check(name, SETTINGS[name])
        with pytest.raises(ConfigError, match=name):
            check(name, object())
