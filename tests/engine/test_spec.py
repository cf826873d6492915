"""A run's identity depends on what determines its result, and on nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy import make_spec

from tmsgd_bench.engine import seeding
from tmsgd_bench.engine.spec import RunSpec, validate
from tmsgd_bench.errors import ConfigError


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"epochs": 7},
        {"batch_size": 6},
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


def test_runs_that_differ_in_their_seed_alone_share_a_setting() -> None:
    assert make_spec(seed=0).setting == make_spec(seed=1).setting != make_spec(epochs=7).setting
    assert make_spec(seed=0).identity != make_spec(seed=1).identity


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number >= 1"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, not 0"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"data": {"kind": "real", "limit": 0, "fingerprint": ""}}, "data.limit must be a whole number >= 1"),
    ],
)
def test_a_number_out_of_range_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(replace(make_spec(), **change))


@pytest.mark.parametrize("lr", [-0.1, 0.0, float("nan"), float("inf"), "fast", None, True])
def test_a_learning_rate_that_is_not_a_positive_number_is_refused(lr: Any) -> None:
    with pytest.raises(ConfigError, match="lr must be a finite number > 0"):
        validate(make_spec(lr=lr))


@pytest.mark.parametrize("switch", [-1, 2.5, "late"])
def test_a_switch_epoch_that_is_not_a_count_is_refused(switch: Any) -> None:
    with pytest.raises(ConfigError, match="switch_epoch must be a whole number >= 0"):
        validate(make_spec(switch_epoch=switch))


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
