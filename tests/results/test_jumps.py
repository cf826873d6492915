"""Jumps of the training loss: what counts as one, how often each optimizer has them, and what is around them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tmsgd_bench import cli
from tmsgd_bench.results import jumps, store

EPOCHS = 20
SWITCH = 10


@pytest.fixture
def root(tmp_path: Path, write_run: Callable[..., Path]) -> Path:
    """Three seeds: all jump before the switch, TM-SGD with each also after it, SGD with one."""
    for seed in range(3):
        _write(write_run, tmp_path, "sgd", seed, [5, 12] if seed == 0 else [5])
        _write(write_run, tmp_path, "tmsgd", seed, [5, 12])
    return tmp_path


def _losses(at: list[int]) -> np.ndarray:
    """A falling loss that is 20 times the smallest in these epochs, and 5 times in the next."""
    losses = np.linspace(1.0, 0.8, EPOCHS)
    for epoch in at:
        losses[epoch : epoch + 2] = [20.0, 5.0]
    return losses


def _write(
    write_run: Callable[..., Path],
    root: Path,
    name: str,
    seed: int,
    at: list[int],
    sharpness: list[float] | None = None,
) -> None:
    def change(folder: Path) -> None:
        history = pd.read_parquet(folder / store.HISTORY).assign(loss=_losses(at))
        if sharpness is not None:
            history = history.assign(sharpness=sharpness, lr_times_sharpness=sharpness)
        history.to_parquet(folder / store.HISTORY)

    options = {"switch_epoch": SWITCH} if name == "tmsgd" else {}
    write_run(root, name, seed, epochs=EPOCHS, options={"momentum": 0.0, **options}, extra=change)


def _group(root: Path, rule: Any) -> Any:
    (group,) = jumps.grouped(jumps.read(store.read_runs(root), {}), rule)
    return group


def test_a_jump_is_measured_from_the_smallest_loss_so_far_and_lasts_until_halfway_back() -> None:
    losses = np.array([1.0, 0.1, 0.5, 1.2, 2.0, 0.4, 0.3, 0.1, 0.9, 1.0, 0.2])
    first, second = jumps.find(losses, 10.0)
    assert (first.epoch, first.epochs, second.epoch, second.epochs) == (3, 3, 9, 1)
    assert (first.times, first.peak) == pytest.approx((12.0, 20.0))


@pytest.mark.parametrize(
    ("losses", "expected", "epochs"),
    [
        ([1.0, 0.1, 20.0, 0.1, 0.0, 5.0, 5.0], [jumps.Jump(2, 200.0, 200.0, 1)], 4),
        ([-1.0, -2.0, 3.0], [], 0),
    ],
)
def test_losses_are_compared_up_to_the_first_that_is_not_positive(
    tmp_path: Path, write_run: Callable[..., Path], losses: list[float], expected: list[jumps.Jump], epochs: int
) -> None:
    """Ratios to zero, or to a negative loss, say nothing. Nor do later epochs count as epochs without a jump."""

    def record(folder: Path) -> None:
        pd.read_parquet(folder / store.HISTORY).assign(loss=losses).to_parquet(folder / store.HISTORY)

    write_run(tmp_path, "sgd", epochs=len(losses), extra=record)
    (trace,) = jumps.read(store.read_runs(tmp_path), {})
    assert jumps.find(trace.losses, 10.0) == expected
    assert trace.exposed(0) == epochs


def test_a_loss_that_never_comes_back_is_one_jump() -> None:
    (jump,) = jumps.find(np.array([1.0, 11.0, 4.0, 30.0, 12.0]), 10.0)
    assert (jump.epoch, jump.epochs, jump.peak) == (1, 4, 30.0)
    assert jumps.find(np.array([1.0, 9.9, 0.5]), 10.0) == []


@pytest.mark.parametrize("count", [0, 1, 7])
def test_the_interval_of_a_rate_is_the_exact_one_of_a_poisson_count(count: int) -> None:
    rate, low, high = jumps.rate(count, 50)
    assert rate == 2.0 * count
    assert stats.poisson.cdf(count, high / 2.0) == pytest.approx(0.025)
    assert low == 0.0 if count == 0 else stats.poisson.sf(count - 1, low / 2.0) == pytest.approx(0.025)


def test_equal_counts_give_a_ratio_around_one_and_none_an_open_end() -> None:
    low, high = jumps.rate_ratio(4, 4)
    assert low < 1.0 < high and low * high == pytest.approx(1.0)
    assert jumps.rate_ratio(3, 0)[1] == math.inf
    assert all(map(math.isnan, jumps.rate_ratio(0, 0)))


def test_jumps_count_from_the_first_epoch_asked_for(root: Path) -> None:
    counts = {
        entry.label: jumps.count(entry, jumps.Rule(first=6)) for entry in _group(root, jumps.Rule(first=6)).entries
    }
    assert {label: (row["jumps"], row["epochs"]) for label, row in counts.items()} == {
        "SGD": (1, 42),
        "TM-SGD, switch 10": (3, 42),
    }


def test_sgd_and_tmsgd_are_compared_after_the_switch_on_the_same_seeds(root: Path) -> None:
    rule = jumps.Rule(first=2)
    (row,) = jumps.after_switch(_group(root, rule), rule)
    assert (row["pairs"], row["left_out"], row["epochs"]) == (3, 0, 30)
    assert (row["jumps"], row["jumps_reference"], row["seeds_more"], row["seeds_fewer"]) == (3, 1, 2, 0)
    assert row["p"] == pytest.approx(stats.binomtest(3, 4).pvalue) and row["p_seeds"] == pytest.approx(0.5)
    assert row["answer"] == "cannot tell"


def test_runs_that_differ_before_the_switch_are_no_pair(root: Path, write_run: Callable[..., Path]) -> None:
    _write(write_run, root, "sgd", 3, [4])
    _write(write_run, root, "tmsgd", 3, [5])
    rule = jumps.Rule(first=2)
    (row,) = jumps.after_switch(_group(root, rule), rule)
    assert (row["pairs"], row["left_out"]) == (3, 1)


def test_each_pair_has_its_own_switch_epoch_and_one_that_never_came_adds_nothing() -> None:
    """As with an automatic switch: jumps at epoch 12 lie after the first pair's switch, and before the second's."""

    def trace(at: list[int], seed: int, switch: float | None) -> jumps.Trace:
        run = pd.Series({"seed": seed, "switch_epoch": switch})
        history = pd.DataFrame({"loss": _losses(at)})
        return jumps.Trace(run, history, tuple(jumps.find(_losses(at), 10.0)))

    switches = (10.0, 15.0, math.inf)
    ours = jumps.Entry("TM-SGD", tuple(trace([12], seed, switch) for seed, switch in enumerate(switches)))
    theirs = jumps.Entry("SGD", tuple(trace([] if seed == 0 else [12], seed, None) for seed in range(3)))
    found = jumps._paired(ours, theirs, jumps.Rule(first=2))
    assert (found["pairs"], found["epochs"]) == (3, (EPOCHS - 10) + (EPOCHS - 15))
    assert (found["jumps"], found["jumps_reference"]) == (1, 0)


def test_many_more_jumps_are_an_answer(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    for seed in range(8):
        _write(write_run, tmp_path, "sgd", seed, [])
        _write(write_run, tmp_path, "tmsgd", seed, [12])
    (row,) = jumps.after_switch(_group(tmp_path, jumps.Rule(first=2)), jumps.Rule(first=2))
    assert row["answer"] == "more" and row["p_holm"] < 0.05 and row["high"] == math.inf


def test_recorded_sharpness_of_another_store_is_shown_around_the_jump(
    root: Path,
    tmp_path_factory: pytest.TempPathFactory,
    write_run: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of two runs with one name the one that recorded is used, if it had the same losses; otherwise that is said."""
    other = tmp_path_factory.mktemp("recorded")
    _write(write_run, other, "tmsgd", 0, [5, 12], [0.01 * epoch for epoch in range(EPOCHS)])
    _write(write_run, other, "tmsgd", 1, [12], [9.0] * EPOCHS)
    arguments = ["--results", str(root), str(other), "--first", "6"]
    assert cli.main(["jumps", *arguments]) == 0
    said = capsys.readouterr().out
    (row,) = (line for line in said.splitlines() if line.startswith("| TM-SGD, switch 10 | 0 |"))
    assert row.endswith("| 0.11 | 0.11 | 0.12 | 0.13 | 0.095 | 1 |")
    (unrecorded,) = (line for line in said.splitlines() if line.startswith("| TM-SGD, switch 10 | 1 |"))
    assert unrecorded.endswith("| – | – | – | – | – | 1 |")
    (warning,) = caplog.messages
    assert "tmsgd-switch10-seed1" in warning and "losses of the two runs differ" in warning
    assert "protocol=table2 optimizer=sgd,tmsgd seed=0,1,2 log_sharpness=1" in said


def test_the_command_has_what_its_runs_have_and_leaves_out_those_of_no_protocol(
    tmp_path: Path, write_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """run.py would train other runs: on other data, or at another learning rate."""

    def jump(folder: Path) -> None:
        history = pd.read_parquet(folder / store.HISTORY)
        history.assign(loss=[1.0, 1.0, 20.0, *[1.0] * (len(history) - 3)]).to_parquet(folder / store.HISTORY)

    data = {"kind": "synthetic", "limit": None, "fingerprint": "f"}
    for seed, protocols in ((0, ["smoke"]), (1, []), (2, ["tuned"])):
        ran = {"arguments": ["--config-dir", "PATH"]}
        write_run(tmp_path, "sgd", seed, protocols=protocols, data=data, epochs=5, extra=jump, ran=ran)
    assert cli.main(["jumps", "--results", str(tmp_path), "--data", "synthetic", "--first", "1"]) == 0
    (command,) = (line for line in capsys.readouterr().out.splitlines() if "run.py" in line)
    assert "python run.py --config-dir FOLDER -m task=tc" in command
    assert "data=synthetic" in command and "protocol=smoke optimizer=sgd seed=0 log_sharpness=1" in command


def test_groups_that_a_heading_cannot_tell_apart_have_a_digest(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    for tokens in (32, 64):
        write_run(tmp_path, "sgd", 0, task={"name": "tc", "tokens": tokens}, epochs=5, extra=_with_loss)
    groups = jumps.grouped(jumps.read(store.read_runs(tmp_path), {}), jumps.Rule(first=1))
    headings = [group.heading for group in groups]
    assert len(set(headings)) == 2 and len({heading.partition("; #")[0] for heading in headings}) == 1


def _with_loss(folder: Path) -> None:
    history = pd.read_parquet(folder / store.HISTORY)
    history.assign(loss=1.0).to_parquet(folder / store.HISTORY)


def test_one_factor_is_counted_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["jumps", "--results", str(root), "--first", "6", "--factor", "3"]) == 0
    assert capsys.readouterr().out.count("jumps by a factor of 3:") == 1


def test_the_tables_and_a_picture_are_written_and_written_again(root: Path, tmp_path: Path) -> None:
    out = tmp_path.with_name(f"{tmp_path.name}-out")
    arguments = ["--results", str(root), "--first", "6", "--out", str(out)]
    assert cli.main(["jumps", *arguments]) == 0 and cli.main(["jumps", *arguments]) == 0
    names = ["after_switch.csv", "each.csv", "jumps.csv", "jumps.md", "jumps.png", "manifest.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert pd.read_csv(out / "each.csv")["epoch"].tolist() == [12] * 4
    (out / "jumps.md").write_text("my notes")
    assert cli.main(["jumps", *arguments]) == 2 and (out / "jumps.md").read_text() == "my notes"


@pytest.mark.parametrize("arguments", [[], ["--task", "seg"], ["--first", "40"]])
def test_what_cannot_be_counted_is_refused_in_one_sentence(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    place = root if arguments else tmp_path / "nothing"
    assert cli.main(["jumps", "--results", str(place), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and len(said.splitlines()) == 1 and "--" in said
    assert cli.main(["jumps", "--results", str(root), "--data", "synthetic"]) == 2
    assert "no finished run on synthetic data" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--factor", "1"], ["--factor", "nan"], ["--first", "0"]])
def test_a_rule_that_counts_nothing_is_refused(arguments: list[str]) -> None:
    assert cli.main(["jumps", *arguments]) == 2
