"""Runs side by side: what is compared with what, and what is printed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tmsgd_bench import cli
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.results import claims, comparison, tables
from tmsgd_bench.results.numerical import CLAIMED_ORDER, Numerics
from tmsgd_bench.results.statistics import compare, correct
from tmsgd_bench.results.store import read_runs

WriteRun = Callable[..., Path]
SGD, TMSGD, ADAM = (90.0, 91.0, 92.5), (90.5, 91.2, 92.6), (80.0, 80.5, 83.0)


@pytest.fixture
def root(tmp_path: Path, write_run: WriteRun) -> Path:
    for seed, finals in enumerate(zip(SGD, TMSGD, ADAM, strict=True)):
        for name, final in zip(("sgd", "tmsgd", "adam"), finals, strict=True):
            write_run(tmp_path, name, seed, final=final)
    return tmp_path


def series(values: tuple[float, ...]) -> pd.Series:
    return pd.Series(values, index=range(len(values)))


def test_runs_that_differ_in_optimizer_and_seed_alone_are_one_group(root: Path) -> None:
    (group,) = comparison.build(read_runs(root))
    assert [entry.label for entry in group.entries] == ["SGD", "Adam", "TM-SGD, switch 2"]
    assert group.heading.startswith("tc, lstm, real ")
    assert group.heading.endswith("; 3 epochs, batch 5, lr 0.01: accuracy (%, larger is better)")


def test_the_numbers_are_those_of_the_statistics_module(root: Path) -> None:
    """Adam against SGD is no claim of the paper. TM-SGD against SGD is one of six, and so is TM-SGD against Adam."""
    (group,) = comparison.build(read_runs(root))
    claims = correct([compare(series(TMSGD), series(SGD)), compare(series(TMSGD), series(ADAM))], 6)
    expected = [*correct([compare(series(ADAM), series(SGD))]), claims[0]]
    assert [entry.comparison for entry in group.entries[1:]] == expected
    assert group.entries[0].comparison is None
    assert group.entries[0].final.mean == pytest.approx(sum(SGD) / 3, rel=1e-15)


def test_another_reference_can_be_chosen(root: Path) -> None:
    (group,) = comparison.build(read_runs(root), "adam")
    assert (group.reference, group.entries[0].label) == ("Adam", "Adam")
    claims = correct([compare(series(TMSGD), series(SGD)), compare(series(TMSGD), series(ADAM))], 6)
    expected = [*correct([compare(series(SGD), series(ADAM))]), claims[1]]
    assert [entry.comparison for entry in group.entries[1:]] == expected


def test_a_claim_has_the_same_corrected_p_in_tables_claims_and_comparisons(root: Path) -> None:
    """Whatever else is printed beside it."""
    runs = read_runs(root)
    (group,) = comparison.build(runs)
    table = tables.build(runs, "5")
    every = claims.evaluate(runs, Numerics(CLAIMED_ORDER, {})).claims
    printed = [
        next(entry.comparison for entry in group.entries if entry.label.startswith("TM-SGD")),
        next(row.comparison for row in table.rows if row.label == "TM-SGD"),
        next(claim.comparison for claim in every if claim.id == "tc/lstm tmsgd/sgd"),
    ]
    assert len({(one.p, one.p_holm, one.family, one.detectable) for one in printed if one}) == 1
    assert None not in printed


def test_own_runs_without_a_claim_are_a_family_of_their_own(root: Path, write_run: WriteRun) -> None:
    """An optimizer that the paper does not have changes no claim's p."""
    before = {entry.label: entry.comparison for entry in comparison.build(read_runs(root))[0].entries}
    for seed in range(3):
        write_run(root, "apollo", seed, final=70.0 + seed**2, protocols=[])
    after = {entry.label: entry.comparison for entry in comparison.build(read_runs(root))[0].entries}
    own, adam = after["Apollo"], after["Adam"]
    assert own is not None and adam is not None and own.family == adam.family == 2
    assert after["TM-SGD, switch 2"] == before["TM-SGD, switch 2"]


def test_a_reference_without_runs_is_refused_with_those_there_are(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"'lion': choose --reference from adam, sgd, tmsgd"):
        comparison.build(read_runs(root), "lion")


@pytest.mark.parametrize("change", [{"batch_size": 6}, {"epochs": 4}, {"data": {"kind": "real", "limit": 9}}], ids=str)
def test_runs_at_other_settings_are_another_group(change: dict[str, object], root: Path, write_run: WriteRun) -> None:
    write_run(root, "sgd", 0, final=50.0, **change)
    groups = comparison.build(read_runs(root))
    assert sorted(len(group.entries) for group in groups) == [1, 3]
    assert sum(entry.final.n for group in groups for entry in group.entries) == 10


@pytest.mark.parametrize("other", [{"unit": ""}, {"direction": "min"}], ids=["unit", "direction"])
def test_a_metric_in_another_unit_or_direction_is_another_group(
    other: dict[str, str], root: Path, write_run: WriteRun
) -> None:
    """A task's code may be changed between two runs; their numbers do not mix."""
    before = comparison.build(read_runs(root))
    write_run(root, seed=8, outcome=other)
    alone, others = sorted(comparison.build(read_runs(root)), key=lambda group: len(group.entries))
    assert [entry.final.n for entry in alone.entries] == [1]
    assert [entry.final for entry in others.entries] == [entry.final for entry in before[0].entries]


def test_a_diverged_run_is_in_its_group_and_marked(root: Path, write_run: WriteRun) -> None:
    write_run(root, "adam", 3, status="diverged")
    write_run(root, "sgd", 3, final=91.0)
    (group,) = comparison.build(read_runs(root))
    adam = next(entry for entry in group.entries if entry.label == "Adam")
    assert "1 diverged" in adam.marks and adam.comparison is not None and adam.comparison.diverged == 1


@pytest.mark.parametrize("status", ["failed", "abandoned"])
def test_runs_without_a_result_are_counted_in_the_marks(root: Path, write_run: WriteRun, status: str) -> None:
    """A reader must see that seeds are missing, or that an optimizer was tried and never got there."""
    before = {entry.label: entry.final for entry in comparison.build(read_runs(root))[0].entries}
    write_run(root, "apollo", 0, status=status)
    write_run(root, "adam", 7, status=status)
    (group,) = comparison.build(read_runs(root))
    entries = {entry.label: entry for entry in group.entries}
    assert entries["Apollo"].final.n == 0 and f"1 {status}" in entries["Apollo"].marks
    assert entries["Adam"].final == before["Adam"] and f"1 {status}" in entries["Adam"].marks
    assert "| Apollo | – |" in comparison.to_markdown([group]) and "Apollo" in comparison.to_csv([group])


def test_a_row_without_results_is_no_reference(tmp_path: Path, write_run: WriteRun) -> None:
    write_run(tmp_path, "sgd", 0, status="failed")
    write_run(tmp_path, "sgd", 0, protocols=[], options={"lr": 0.5})
    (group,) = comparison.build(read_runs(tmp_path))
    assert group.reference == "SGD, lr 0.5" and not group.note


def test_without_sgd_the_rows_stand_without_differences(
    tmp_path: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, final in (("adam", 91.0), ("mine", 92.0)):
        write_run(tmp_path, name, 0, final=final)
    assert cli.main(["compare", "--results", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "no differences" in text and "--reference" in text and "| Adam | 91" in text
    assert cli.main(["compare", "--results", str(tmp_path), "--reference", "adam"]) == 0
    assert "differences to Adam" in capsys.readouterr().out
    assert cli.main(["compare", "--results", str(tmp_path), "--reference", "sgd"]) == 2
    assert "choose --reference from adam, mine" in capsys.readouterr().err
    write_run(tmp_path, "sgd", 0, status="failed")
    assert cli.main(["compare", "--results", str(tmp_path)]) == 0
    assert "no finished run is the reference" in capsys.readouterr().out


def test_unverified_and_partial_data_are_marked(root: Path, write_run: WriteRun) -> None:
    data = {"kind": "real", "limit": 9, "fingerprint": "g"}
    write_run(root, "sgd", 0, final=50.0, data=data, ran={"verified_data": False})
    partial = next(group for group in comparison.build(read_runs(root)) if "(9 training examples)" in group.heading)
    assert {"unverified data", "partial data (9 training examples)"} <= set(partial.entries[0].marks)


def test_the_command_prints_every_group(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "--results", str(root)]) == 0
    text = capsys.readouterr().out
    assert text.count("| SGD |") == 1 and "differences to SGD" in text and "Holm" in text
    assert cli.main(["compare", "--results", str(root), "--format", "csv"]) == 0
    frame = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert list(frame["n"]) == [3, 3, 3] and set(" ".join(frame["runs"]).split()) == set(read_runs(root)["run_id"])
    assert cli.main(["compare", "--results", str(root), "--task", "od"]) == 2
    assert "no run has the task 'od'" in capsys.readouterr().err


def test_optimizers_of_one_name_with_other_options_are_told_apart(root: Path, write_run: WriteRun) -> None:
    """And the one that follows a protocol is the reference, although the other has more runs."""
    for seed in range(4):
        write_run(root, "sgd", seed, final=50.0, options={"momentum": 0.5}, protocols=[])
    (group,) = comparison.build(read_runs(root))
    labels = [entry.label for entry in group.entries]
    assert labels == ["SGD, without momentum", "Adam", "SGD, momentum 0.5", "TM-SGD, switch 2"]
    assert group.entries[0].comparison is None and group.entries[0].final.mean == pytest.approx(sum(SGD) / 3)


def test_optimizers_of_one_label_are_told_apart_by_their_names(root: Path, write_run: WriteRun) -> None:
    write_run(root, "sgd", 0, final=50.0, options={"name": "mine", "label": "SGD"}, protocols=[])
    (group,) = comparison.build(read_runs(root))
    assert {"SGD (sgd)", "SGD (mine)"} < {entry.label for entry in group.entries}


def test_groups_that_a_heading_cannot_tell_apart_name_the_settings_that_differ(root: Path, write_run: WriteRun) -> None:
    write_run(root, "sgd", 0, final=50.0, model={"name": "lstm", "hidden": 99})
    headings = sorted(group.heading for group in comparison.build(read_runs(root)))
    assert [heading.partition("is better); ")[2] for heading in headings] == ["model.hidden=99", "without model.hidden"]


def test_groups_that_differ_in_many_settings_have_a_digest(root: Path, write_run: WriteRun) -> None:
    write_run(root, "sgd", 0, final=50.0, model={"name": "lstm", **dict.fromkeys("abcde", 1)})
    headings = [group.heading for group in comparison.build(read_runs(root))]
    assert len(headings) == len(set(headings)) == 2 and all("; #" in heading for heading in headings)


def test_a_limit_above_the_number_of_examples_is_not_shown_as_that_many(root: Path, write_run: WriteRun) -> None:
    """Only the result knows how many there are."""
    data = {"kind": "real", "limit": 300, "fingerprint": "f"}
    folder = write_run(root, "sgd", 0, data=data, outcome={"training_examples": 209})
    runs = read_runs(root).set_index("run_id")
    assert runs.loc[folder.name, "limit"] == 209
    assert any("(209 training examples)" in group.heading for group in comparison.build(read_runs(root)))


def test_numbers_of_a_validation_split_are_marked(
    root: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    task = {"name": "tc", "tokens": 32, "evaluate_on": "valid"}
    run = write_run(root, "sgd", 0, task=task).name
    marked = [entry for group in comparison.build(read_runs(root)) for entry in group.entries if run in entry.run_ids]
    assert [one.marks for one in marked] == [("evaluated on the valid split", "few seeds (n=1)")]
    cli.main(["runs", "--results", str(root)])
    assert next(line for line in capsys.readouterr().out.splitlines() if "valid split" in line).startswith(run)


def test_the_heading_says_how_many_examples_there_are_if_results_do(tmp_path: Path, write_run: WriteRun) -> None:
    write_run(tmp_path, outcome={"training_examples": 23_937})
    (group,) = comparison.build(read_runs(tmp_path))
    assert "(23,937 training examples)" in group.heading


def test_a_metric_that_is_not_finite_counts_as_worse_than_any_number(root: Path, write_run: WriteRun) -> None:
    write_run(root, "sgd", 3, final=91.0)
    write_run(root, "adam", 3, final=None)
    (group,) = comparison.build(read_runs(root))
    adam = next(entry for entry in group.entries if entry.label == "Adam")
    assert {"1 with a metric that is not finite", "few seeds (n=3)"} <= set(adam.marks)
    assert adam.comparison is not None and adam.comparison.diverged == 1


@pytest.fixture
def rates(tmp_path: Path, write_run: WriteRun) -> Path:
    """SGD at 0.1 and 0.01, Adam at 0.001, three seeds each; none follows a protocol."""
    for seed in range(3):
        for name, lr, final in (("sgd", 0.1, 91.0), ("sgd", 0.01, 90.0), ("adam", 0.001, 92.0)):
            write_run(tmp_path, name, seed, final=final + seed**2, options={"lr": lr}, protocols=[])
    return tmp_path


def test_learning_rates_are_part_of_what_is_compared(rates: Path) -> None:
    (group,) = comparison.build(read_runs(rates))
    assert [entry.label for entry in group.entries] == ["SGD, lr 0.01", "Adam, lr 0.001", "SGD, lr 0.1"]
    assert [entry.lr for entry in group.entries] == [0.01, 0.001, 0.1]
    assert [entry.comparison and entry.comparison.difference.mean for entry in group.entries] == [None, 2.0, 1.0]
    assert "batch 5: accuracy" in group.heading and "lr" not in group.heading


def test_the_table_says_which_of_several_rows_is_the_reference(
    rates: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """With as many runs the smallest learning rate, else the one with the most runs, or the one that is asked for."""
    said = "differences to {}, one of 2 rows of sgd: --reference sgd,SETTING=VALUE chooses another"
    assert cli.main(["compare", "--results", str(rates)]) == 0
    assert said.format("SGD, lr 0.01") in capsys.readouterr().out
    assert cli.main(["compare", "--results", str(rates), "--reference", "sgd,lr=1e-1"]) == 0
    assert "differences to SGD, lr 0.1\n" in capsys.readouterr().out
    write_run(rates, "sgd", 3, final=91.0, options={"lr": 0.1}, protocols=[])
    (group,) = comparison.build(read_runs(rates))
    assert group.reference == group.entries[0].label == "SGD, lr 0.1"


@pytest.mark.parametrize(
    ("split", "direction", "lr"),
    [("validation", "max", "0.1"), ("validation", "min", "0.03"), ("test", "max", "0.01"), ("test", "min", "0.01")],
)
def test_the_best_row_is_the_reference_on_the_validation_split_alone(
    split: str, direction: str, lr: str, tmp_path: Path, write_run: WriteRun
) -> None:
    """A row with a diverged run is worse than any other, and a choice on the test split would favour the reference."""
    task = {"name": "tc", "evaluate_on": split}
    for rate, finals in ((0.01, [80.0, 80.0]), (0.03, [70.0, 71.0]), (0.1, [90.0, 91.0]), (0.3, [99.0, None])):
        for seed, final in enumerate(finals):
            status, outcome = "done" if final else "diverged", {"direction": direction}
            write_run(tmp_path, "sgd", seed, status, final, task=task, options={"lr": rate}, outcome=outcome)
    (group,) = comparison.build(read_runs(tmp_path))
    assert group.reference == f"SGD, lr {lr}"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--reference", "sgd,lr=0.5"], "no finished run is --reference sgd,lr=0.5: there are sgd,lr=0.01, sgd,lr=0.1"),
        (["--reference", "sgd,momentum=0.9"], "sgd has no setting 'momentum': choose --reference from lr."),
        (["--reference", ""], "no finished run has the optimizer ''"),
        (["--reference", "sgd,0.1"], "write NAME or NAME,SETTING=VALUE"),
        (["--group-by", "batch"], "no optimizer has such a setting: choose from lr"),
    ],
)
def test_a_reference_or_group_that_is_not_there_is_refused(
    options: list[str], sentence: str, rates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", "--results", str(rates), *options]) == 2
    assert sentence in capsys.readouterr().err


def test_a_table_for_each_learning_rate_can_be_asked_for(rates: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = comparison.build(read_runs(rates), group_by=["lr"])
    assert [len(group.entries) for group in groups] == [1, 1, 1]
    rates_of = {group.heading.split("lr ")[1].split(":")[0]: group.reference for group in groups}
    assert rates_of == {"0.001": "", "0.01": "SGD", "0.1": "SGD"}
    assert cli.main(["compare", "--results", str(rates), "--group-by", "lr"]) == 0
    assert capsys.readouterr().out.count("differences to SGD\n") == 2


def test_tables_for_each_value_of_another_setting_name_it(root: Path, write_run: WriteRun) -> None:
    for seed in range(3):
        write_run(root, "sgd", seed, final=50.0, options={"momentum": 0.5}, protocols=[])
    groups = comparison.build(read_runs(root), group_by=["momentum"])
    assert sorted(group.heading.partition("is better); ")[2] for group in groups) == ["momentum=0.5", "momentum=null"]
    assert sorted(len(group.entries) for group in groups) == [1, 3]


def test_many_differing_options_are_told_apart_by_a_digest(root: Path, write_run: WriteRun) -> None:
    write_run(root, "sgd", 0, final=50.0, options=dict.fromkeys("abcde", 1), protocols=[])
    (group,) = comparison.build(read_runs(root))
    assert sum(entry.label.startswith("SGD #") for entry in group.entries) == len(group.entries) - 2 == 2


def test_close_learning_rates_have_different_labels(tmp_path: Path, write_run: WriteRun) -> None:
    """As a search draws them."""
    for lr in (0.012345678, 0.012345679):
        write_run(tmp_path, "sgd", options={"lr": lr})
    (group,) = comparison.build(read_runs(tmp_path))
    assert [entry.label for entry in group.entries] == ["SGD, lr 0.012345678", "SGD, lr 0.012345679"]
