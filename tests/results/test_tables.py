"""The paper's tables, filled from a frame of runs made by hand."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tmsgd_bench.errors import ConfigError, StoreError
from tmsgd_bench.results import rows as table_rows
from tmsgd_bench.results import selection, store, table_forms, tables
from tmsgd_bench.results.cells import p_value, signed
from tmsgd_bench.results.paper import Printed, every_experiment, experiments, paper
from tmsgd_bench.results.statistics import (
    ALPHA,
    FEW_SEEDS,
    Comparison,
    detectable_difference,
    holm,
    paired_difference,
    paired_p_value,
)
from tmsgd_bench.results.store import COLUMNS
from tmsgd_bench.results.tables import Row, Table, build, other_conditions

PRINTED = {"SGD": "90.6", "TM-SGD": "90.9", "SGD-M": "90.4", "TM-SGD-M": None, "Adam": "90.1", "Apollo": "89.4"}
NEVER = "never switches: eq. (8) is not used"
SGD = [90.1, 90.4, 90.2, 90.7, 90.5]
TMSGD = [90.3, 90.5, 90.2, 91.1, 90.9]


def a_run(optimizer: str = "sgd", seed: int = 0, final: float | None = 90.0, **changes: Any) -> dict[str, Any]:
    """A row of the frame: a finished run on real data that follows Table 2."""
    row = {
        "run_id": f"tc-lstm-{optimizer}-seed{seed}",
        "status": "done",
        "task": "tc",
        "model": "lstm",
        "optimizer": optimizer,
        "switch_epoch": 100 if optimizer.startswith("tmsgd") else None,
        "seed": seed,
        "data": "real",
        "limit": None,
        "epochs": 120,
        "protocols": ("table2", "corrected"),
        "benchmark_version": 1,
        "group": f"version {changes.get('benchmark_version', 1)}",
        "options": f'{{"name": "{optimizer}"}}',
        "final": final,
        "best": None if final is None else final + 0.5,
        "started": "2026-01-01T00:00:00+00:00",
    }
    return row | changes


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=pd.Index(COLUMNS))


def seeds(optimizer: str, values: list[float], **changes: Any) -> list[dict[str, Any]]:
    return [a_run(optimizer, seed, value, **changes) for seed, value in enumerate(values)]


def row(table: Table, label: str) -> Row:
    (found,) = (row for row in table.rows if row.label == label)
    return found


def full() -> Table:
    """SGD and TM-SGD with five seeds, SGD-M with one, the others without a run."""
    return build(frame(*seeds("sgd", SGD), *seeds("tmsgd", TMSGD), a_run("sgdm", 0, 89.25)), "5")


# --- numbers -------------------------------------------------------------------------------------------------------


def printed_texts(table: Table) -> dict[str, str | None]:
    return {row.label: row.printed.text if row.printed else None for row in table.rows}


def test_the_rows_are_the_papers_with_its_numbers() -> None:
    assert printed_texts(full()) == PRINTED


def test_a_row_has_mean_spread_and_number_of_its_runs() -> None:
    """Of the last epoch and of the best one."""
    found = row(full(), "TM-SGD")
    mean = sum(TMSGD) / 5
    std = math.sqrt(sum((value - mean) ** 2 for value in TMSGD) / 4)
    assert (found.final.mean, found.final.std, found.final.n) == (pytest.approx(mean), pytest.approx(std), 5)
    assert (found.best.mean, found.best.std, found.best.n) == (pytest.approx(mean + 0.5), pytest.approx(std), 5)
    assert found.run_ids == tuple(f"tc-lstm-tmsgd-seed{seed}" for seed in range(5))


def test_a_difference_is_ours_minus_sgd_paired_by_seed() -> None:
    table = full()
    assert table.reference == "SGD"
    assert row(table, "SGD").difference is None
    difference = row(table, "TM-SGD").difference
    assert difference == paired_difference(pd.Series(TMSGD), pd.Series(SGD))
    assert difference is not None
    assert (difference.mean, difference.n) == (pytest.approx(0.22), 5)


def test_a_difference_is_over_the_seeds_that_both_have() -> None:
    table = build(frame(*seeds("sgd", SGD), a_run("adam", 4, 90.0), a_run("adam", 9, 80.0)), "5")
    difference = row(table, "Adam").difference
    assert difference is not None
    assert (difference.mean, difference.n) == (pytest.approx(90.0 - SGD[4]), 1)
    assert row(table, "Adam").final.n == 2


def test_an_optimizer_without_runs_has_an_empty_row() -> None:
    found = row(full(), "Apollo")
    assert found.difference is not None
    assert (found.final.n, found.best.n, found.difference.n, found.run_ids, found.marks) == (0, 0, 0, (), ())


def test_the_order_of_runs_does_not_count() -> None:
    rows = [*seeds("sgd", SGD), *seeds("tmsgd", TMSGD)]
    forwards, backwards = build(frame(*rows), "5"), build(frame(*rows[::-1]), "5")
    for one, other in zip(forwards.rows, backwards.rows, strict=True):
        assert one.label == other.label
        assert one.final.mean == pytest.approx(other.final.mean, nan_ok=True)
        assert sorted(one.run_ids) == sorted(other.run_ids)
    left, right = row(forwards, "TM-SGD").difference, row(backwards, "TM-SGD").difference
    assert left == right


# --- which runs enter ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"protocols": ("smoke",)},
        {"protocols": ()},
        {"data": "synthetic"},
        {"task": "ic"},
        {"model": "gru"},
    ],
    ids=lambda other: str(next(iter(other.items()))),
)
def test_a_run_of_another_kind_stays_out(other: dict[str, Any]) -> None:
    table = build(frame(*seeds("sgd", SGD), a_run("sgd", 5, 10.0, run_id="other", **other)), "5")
    assert row(table, "SGD").final.mean == pytest.approx(sum(SGD) / 5)
    assert "other" not in row(table, "SGD").run_ids
    assert row(table, "SGD").marks == ()


def test_synthetic_runs_have_a_table_of_their_own() -> None:
    runs = frame(*seeds("sgd", SGD), *seeds("sgd", [50.0] * 5, data="synthetic"))
    table = build(runs, "5", data="synthetic")
    assert row(table, "SGD").final.mean == 50.0
    assert "synthetic data" in row(table, "SGD").marks
    assert "synthetic data" in table.conditions


def test_another_protocol_has_a_table_of_its_own() -> None:
    runs = frame(*seeds("sgd", SGD), *seeds("sgd", [50.0] * 5, protocols=("smoke",)))
    table = build(runs, "5", protocol="smoke")
    assert row(table, "SGD").final.mean == 50.0
    assert "protocol smoke" in table.conditions


@pytest.mark.parametrize(("protocol", "pairs"), [("reduced", 5), ("corrected", 0)])
def test_learning_rates_may_differ_between_optimizers_in_the_reduced_protocol_alone(protocol: str, pairs: int) -> None:
    """But neither the other settings nor the learning rates of one optimizer's runs."""
    shared = {"protocols": (protocol,), "conditions": "the same"}
    sgd = seeds("sgd", SGD, group="lr 0.1", **shared)
    adam = seeds("adam", TMSGD, group="lr 0.001", started="2026-01-02T00:00:00+00:00", **shared)
    other_lr = [a_run("adam", 7, 10.0, group="lr 1", options='{"lr": 1}', run_id="other lr", **shared)]
    other_data = [a_run("sgd", 7, 10.0, run_id="other data", **shared | {"conditions": "other data"})]
    table = build(frame(*sgd, *adam, *other_lr, *other_data), "5", protocol=protocol)
    difference = row(table, "Adam").difference
    assert difference is not None and difference.n == pairs
    assert not {"other lr", "other data"} & table.run_ids


def test_of_several_benchmark_versions_the_newest_enters() -> None:
    runs = frame(*seeds("sgd", SGD), a_run("sgd", 0, 50.0, benchmark_version=2, run_id="new"))
    table = build(runs, "5")
    assert row(table, "SGD").run_ids == ("new",)
    assert "benchmark version 2" in table.conditions


def test_runs_of_two_sets_of_options_are_not_pooled() -> None:
    """The options that were started last count, for the reference too, and the row says what was left out."""
    older = {"options": '{"name": "older"}', "started": "2025-01-01T00:00:00+00:00"}
    runs = frame(*seeds("sgd", [10.0] * 2, **older), *seeds("sgd", SGD), *seeds("tmsgd", TMSGD))
    table = build(runs, "5")
    assert row(table, "SGD").final.mean == pytest.approx(sum(SGD) / 5)
    assert row(table, "SGD").marks == ("2 runs of older settings left out",)
    difference = row(table, "TM-SGD").difference
    assert difference is not None
    assert difference.mean == pytest.approx(0.22)


def test_a_run_that_has_no_start_time_does_not_count_as_the_newest() -> None:
    """Its environment.json may be lost, or not be written yet."""
    lost = a_run("sgd", 9, None, options='{"name": "lost"}', started=None, status="abandoned")
    table = build(frame(*seeds("sgd", SGD), lost), "5")
    assert row(table, "SGD").final.n == 5


def test_runs_of_two_groups_are_neither_pooled_nor_paired() -> None:
    """SGD from before a YAML was changed is no partner for TM-SGD from after it."""
    before = {"group": "before", "options": '{"name": "before"}', "started": "2025-01-01T00:00:00+00:00"}
    table = build(frame(*seeds("sgd", SGD, **before), *seeds("tmsgd", TMSGD)), "5")
    difference = row(table, "TM-SGD").difference
    assert difference is not None and difference.n == 0
    assert (row(table, "SGD").final.n, row(table, "SGD").marks) == (0, ("5 runs of older settings left out",))


@pytest.mark.parametrize("status", ["failed", "running", "abandoned"])
def test_a_newer_run_without_a_result_hides_no_result(status: str) -> None:
    newer = {
        "group": "newer",
        "options": '{"name": "newer"}',
        "benchmark_version": 2,
        "started": "2027-01-01T00:00:00+00:00",
    }
    table = build(frame(*seeds("sgd", SGD), a_run("sgd", 7, None, status=status, **newer)), "5")
    assert row(table, "SGD").final.n == 5


# --- marks ---------------------------------------------------------------------------------------------------------


def test_five_finished_seeds_on_real_data_need_no_mark() -> None:
    assert row(full(), "TM-SGD").marks == ()


@pytest.mark.parametrize("n", range(1, FEW_SEEDS + 2))
def test_few_seeds_are_marked(n: int) -> None:
    table = build(frame(*seeds("sgd", [90.0] * n)), "5")
    assert row(table, "SGD").marks == ((f"few seeds (n={n})",) if n < FEW_SEEDS else ())


@pytest.mark.parametrize("status", ["diverged", "failed", "running", "abandoned"])
def test_runs_without_a_number_are_counted_and_marked(status: str) -> None:
    rows = [*seeds("sgd", SGD), *(a_run("sgd", seed, None, status=status) for seed in (5, 6))]
    found = row(build(frame(*rows), "5"), "SGD")
    assert found.marks == (f"2 {status}",)
    assert found.final.n == 5


def test_a_row_of_diverged_runs_has_no_number() -> None:
    """Adam's blank cell in the paper's Table 3 is such a one."""
    runs = frame(*seeds("sgd", SGD), *(a_run("adam", seed, None, status="diverged") for seed in range(5)))
    table = build(runs, "5")
    assert row(table, "Adam").marks == ("5 diverged",)
    assert row(table, "Adam").final.n == 0
    line = next(line for line in table_forms.to_markdown(table).splitlines() if line.startswith("| Adam"))
    assert line.startswith("| Adam | 90.1 | – | (n=0, better in 0 of 5) | 0.062 | 0.062 | – | – |")  # 2/2⁵


@pytest.mark.parametrize(
    ("switch_epoch", "epochs", "never"),
    [(119, 120, False), (120, 120, True), (200, 30, True), (math.inf, 120, True), (None, 120, False)],
)
def test_a_run_that_never_switches_is_marked(switch_epoch: float | None, epochs: int, never: bool) -> None:
    """As the paper's Table 2 has it for SEG: switch epoch 200 of 30. Infinity: it was to choose it, and never did."""
    runs = frame(*seeds("tmsgd", TMSGD, switch_epoch=switch_epoch, epochs=epochs))
    assert row(build(runs, "5"), "TM-SGD").marks == ((NEVER,) if never else ())


def test_runs_that_choose_their_switch_epochs_have_them_in_their_label_and_those_that_never_switch_are_counted() -> (
    None
):
    epochs = [7.0, 12.0, math.inf, 9.0, 9.0]
    runs = frame(*(a_run("tmsgd_auto", seed, 90.0, switch_epoch=epoch) for seed, epoch in enumerate(epochs)))
    runs = runs.assign(label="TM-SGD (auto)", verified=True, lr=0.01)
    assert table_rows.labels([runs]) == ["TM-SGD (auto), switch 7 to 12"]
    assert table_rows.labels([runs[runs["switch_epoch"] == 9.0]]) == ["TM-SGD (auto), switch 9"]
    assert table_rows.labels([runs[runs["switch_epoch"] == math.inf]]) == ["TM-SGD (auto)"]
    assert selection.marks(runs) == ["1 of 5 runs never switch: eq. (8) is not used"]


def test_partial_data_are_marked_with_their_size() -> None:
    runs = frame(*seeds("sgd", SGD, limit=500, protocols=("smoke",)))
    assert row(build(runs, "5", protocol="smoke"), "SGD").marks == ("partial data (500 training examples)",)


def test_every_mark_that_applies_is_there() -> None:
    changes = {"limit": 500, "switch_epoch": 9, "epochs": 6, "data": "synthetic"}
    runs = frame(a_run("tmsgd", 0, 50.0, **changes), a_run("tmsgd", 1, None, status="diverged", **changes))
    assert row(build(runs, "5", data="synthetic"), "TM-SGD").marks == (
        "synthetic data",
        "partial data (500 training examples)",
        "1 diverged",
        "few seeds (n=1)",
        NEVER,
    )


# --- printed forms -------------------------------------------------------------------------------------------------

UNESCAPE = {
    r"$\pm$": "±",
    "$-$": "−",
    r"\%": "%",
    "$^1$": "¹",
    "--": "–",
    r"\_": "_",
    "$<$": "<",
    "$^2$": "²",
    "``": "“",
    "''": "”",
}
NUMBER = r"([+−-]?\d+\.\d+)"


def markdown_cells(table: Table) -> list[list[str]]:
    """Head and rows of the Markdown form."""
    lines = [line for line in table_forms.to_markdown(table).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def latex_cells(table: Table) -> list[list[str]]:
    """Head and rows of the LaTeX form, unescaped."""
    found = []
    for line in table_forms.to_latex(table).splitlines():
        if line.endswith(r" \\"):
            for escaped, plain in UNESCAPE.items():
                line = line.replace(escaped, plain)
            found.append([cell.strip() for cell in line.removesuffix(r"\\").split(" & ")])
    return found


def csv_frame(table: Table) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(table_forms.to_csv(table)), dtype={"table": str, "marks": str, "runs": str})


def numbers(cell: str) -> list[float]:
    """The numbers of a printed cell: "90.38 ± 0.24 (n=5)" → [90.38, 0.24, 5]."""
    count = re.search(r"\(n=(\d+)(?:, better in \d+(?:, equal in \d+)?)?\)", cell)
    found = [float(text.replace("−", "-")) for text in re.findall(NUMBER, cell)]
    return [*found, float(count[1])] if count else found


def printed(*values: float, digits: int = 2) -> list[float]:
    """Values as a cell rounds them; NaN is not printed."""
    return [float(f"{value:.{digits}f}") for value in values if not math.isnan(value)]


TABLES: dict[str, Callable[[], Table]] = {
    "full": full,
    "empty": lambda: build(frame(), "5"),
    "marked": lambda: build(
        frame(*seeds("sgd", SGD), a_run("tmsgd", 0, 88.0, switch_epoch=500), a_run("adam", 1, None, status="failed")),
        "5",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_markdown_and_latex_say_the_same(name: str) -> None:
    table = TABLES[name]()
    markdown, latex = markdown_cells(table), latex_cells(table)
    assert markdown[1:] == latex[1:]
    assert [row[0] for row in markdown[1:]] == list(PRINTED)
    assert {len(row) for row in (*markdown, *latex)} == {11}


@pytest.mark.parametrize("name", TABLES)
def test_csv_holds_the_table_in_full(name: str) -> None:
    table = TABLES[name]()
    read = csv_frame(table)
    assert list(read["optimizer"]) == list(PRINTED)
    assert set(read["table"]) == {"5"} and set(read["conditions"]) == {table.conditions}
    for (_, found), expected in zip(read.iterrows(), table.rows, strict=True):
        values = [found[key] for key in ("mean", "std", "n", "best_mean", "best_std")]
        final, best = expected.final, expected.best
        assert values == pytest.approx([final.mean, final.std, final.n, best.mean, best.std], nan_ok=True, rel=1e-15)
        assert _text(found["marks"]) == "; ".join(expected.marks)
        assert tuple(_text(found["runs"]).split()) == expected.run_ids
        value = math.nan if expected.printed is None else expected.printed.value
        assert found["paper"] == pytest.approx(value, nan_ok=True)
        if (comparison := expected.comparison) is not None:
            numbers = [comparison.p, comparison.p_holm, comparison.detectable, comparison.spread, comparison.family]
            names = ["p", "p_holm", "detectable", "spread", "family"]
            assert [found[name] for name in names] == pytest.approx(numbers, nan_ok=True, rel=1e-15)


@pytest.mark.parametrize("name", TABLES)
def test_markdown_holds_what_csv_holds_to_two_digits(name: str) -> None:
    table = TABLES[name]()
    for cells, (_, found) in zip(markdown_cells(table)[1:], csv_frame(table).iterrows(), strict=True):
        assert numbers(cells[1]) == printed(found["paper"], digits=1)
        counts = [float(found["n"])] if found["n"] else []
        assert numbers(cells[2]) == [*printed(found["mean"], found["std"]), *counts]
        pairs = [float(found["pairs"])] if found["pairs"] else []
        differences = [found[key] for key in ("difference", "low", "high") if not math.isnan(found[key])]
        assert numbers(cells[3]) == pytest.approx([*differences, *pairs], abs=0.005)
        assert numbers(cells[6]) == printed(found["detectable"])
        assert [cells[4], cells[5]] == [p_value(found["p"]), p_value(found["p_holm"])]
        assert cells[7].startswith(_text(found["verdict"]) or "–")
        assert cells[10] == _text(found["marks"])


def _text(value: Any) -> str:
    """A cell of text that pandas reads as NaN when it is empty."""
    return "" if pd.isna(value) else str(value)


def test_a_row_of_the_markdown_form_by_hand() -> None:
    """Mean, spread and difference to two digits, the sign always shown, n with every number."""
    runs = frame(*seeds("sgd", [90.0, 91.0]), *seeds("tmsgd", [90.5, 90.75]))
    assert markdown_cells(build(runs, "5"))[2] == [
        "TM-SGD",
        "90.9",
        "90.62 ± 0.18 (n=2)",
        "+0.12 [−4.64, +4.89] (n=2, better in 1)",  # ± 12.706 × 0.375
        "0.8",  # t = 0.125/0.375 with 1 degree of freedom: 1 − 2 arctan(t)/π
        "1",
        "–",  # fewer than five pairs decide nothing
        "undecided (222 seeds would decide)",
        "too few seeds",
        "91.12 ± 0.18 (n=2)",
        "few seeds (n=2)",
    ]


def test_pairs_that_are_equal_are_counted_beside_those_that_are_better() -> None:
    """Without them "better in 1" of three would look like two losses."""
    runs = frame(*seeds("sgd", [90.0, 91.0, 92.0]), *seeds("tmsgd", [90.5, 91.0, 92.0]))
    assert markdown_cells(build(runs, "5"))[2][3].endswith("(n=3, better in 1, equal in 2)")


def test_one_pair_is_printed_without_an_interval() -> None:
    assert markdown_cells(full())[3][2:4] == ["89.25 (n=1)", "−0.85 (n=1, better in 0)"]


def test_the_forms_name_conditions_and_rules() -> None:
    table = full()
    for text in (table_forms.to_markdown(table), table_forms.to_latex(table)):
        assert "real data, protocol table2, level full, benchmark version 1" in text
        assert "accuracy (%" in text
        assert "t interval]" in text and "no such difference" in text.lower()
        assert f"Fewer than {FEW_SEEDS} seeds are marked" in text
        assert "chosen on test data" in text
    assert "higher is better" in table_forms.to_markdown(table)


def test_latex_has_nothing_left_to_escape() -> None:
    """In the body: no bare % & _ # outside of what LaTeX itself needs."""
    for name in TABLES:
        body = [line for line in table_forms.to_latex(TABLES[name]()).splitlines() if not line.startswith("%")]
        cells = " ".join(body).replace(" & ", " ")
        assert re.findall(r"(?<!\\)[%&#_]", cells) == []
        assert cells.isascii()


# --- corners -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", [frame(), frame(a_run("sgd", protocols=()))], ids=["no run", "no run that follows"])
def test_a_table_without_runs_is_empty_but_whole(runs: pd.DataFrame) -> None:
    table = build(runs, "5")
    assert printed_texts(table) == PRINTED
    assert [row.final.n for row in table.rows] == [0] * 6
    assert [row.marks for row in table.rows] == [()] * 6
    assert "benchmark version none yet" in table.conditions


def test_the_frame_is_left_as_it_was() -> None:
    runs = frame(*seeds("sgd", SGD), *seeds("tmsgd", TMSGD))
    before = runs.copy(deep=True)
    build(runs, "5")
    pd.testing.assert_frame_equal(runs, before)


def test_an_unknown_table_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no table '6'.*choose one of 3, 4, 5, seg, ig, ic, ctr\."):
        build(frame(), "6")


# --- comparisons ---------------------------------------------------------------------------------------------------


def comparison(table: Table, label: str) -> Comparison:
    found = row(table, label).comparison
    assert found is not None
    return found


def test_a_claim_is_corrected_with_the_claims_and_the_others_among_themselves() -> None:
    """TM-SGD better than SGD is one of six claims; that Adam is, or Apollo, is none."""
    adam, apollo = [85.0, 84.0, 86.0, 85.5, 85.0], [85.0, 88.0, 89.0, 90.5, 90.0]
    values = {"sgd": SGD, "tmsgd": TMSGD, "adam": adam, "apollo": apollo}
    table = build(frame(*(run for name, finals in values.items() for run in seeds(name, finals))), "5")
    claim, *others = (comparison(table, label) for label in ("TM-SGD", "Adam", "Apollo"))
    claimed = [paired_p_value(pd.Series(TMSGD), pd.Series(other)) for other in (SGD, adam, apollo)]
    assert claim.p == claimed[0]
    assert (claim.p_holm, claim.family) == (holm(claimed, 6)[0], 6)
    assert [other.p_holm for other in others] == holm([other.p for other in others])
    assert {other.family for other in others} == {2}
    assert claim.detectable == detectable_difference(claim.spread, 5, ALPHA / 6)
    assert [row(table, label).judgement is None for label in ("TM-SGD", "Adam", "Apollo")] == [False, True, True]


def test_the_evidence_of_a_table_holds_all_runs_that_its_p_depends_on() -> None:
    """Eq. (8) from the first step is in no row, but one of the claims."""
    options = '{"name": "tmsgd", "switch_epoch": 0}'
    from_start = seeds("tmsgd", TMSGD, switch_epoch=0, protocols=(), run_id="from start", options=options)
    table = build(frame(*seeds("sgd", SGD), *seeds("tmsgd", TMSGD), from_start[0]), "5")
    assert "from start" in table.run_ids
    assert all("from start" not in row.run_ids for row in table.rows)


def test_an_optimizer_without_runs_has_no_p_and_leaves_the_family_as_it_is() -> None:
    assert comparison(full(), "TM-SGD").p_holm == pytest.approx(6 * comparison(full(), "TM-SGD").p)
    assert math.isnan(comparison(full(), "Apollo").p)


def test_a_diverged_run_counts_as_worse_than_any_number() -> None:
    """Adam's survivor is the best run of all, and yet Adam is worse in four pairs of five."""
    rows = [a_run("adam", seed, None, status="diverged") for seed in range(4)]
    table = build(frame(*seeds("sgd", SGD), *rows, a_run("adam", 4, 99.0)), "5")
    found = comparison(table, "Adam")
    assert (found.above, found.below, found.diverged, found.difference.n) == (1, 4, 4, 1)
    assert found.direction < 0.0
    assert "4 diverged" in row(table, "Adam").marks


@pytest.mark.parametrize("status", ["failed", "running", "abandoned"])
def test_a_run_that_has_not_ended_is_no_pair(status: str) -> None:
    table = build(frame(*seeds("sgd", SGD), *seeds("adam", SGD[:3]), a_run("adam", 3, None, status=status)), "5")
    assert comparison(table, "Adam").pairs == 3


@pytest.mark.parametrize(
    ("p", "text"),
    [
        *[(0.5, "0.5"), (0.04999, "0.04999"), (0.05, "0.05"), (0.0501, "0.0501")],
        *[(0.0004, "<0.001"), (1.0, "1"), (math.nan, "–"), (0.0012345, "0.0012")],
    ],
)
def test_a_p_value_is_never_rounded_across_the_level(p: float, text: str) -> None:
    assert p_value(p) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        *[
            (0.125, 2, "+0.12"),
            (-3.0, 2, "−3.00"),
            (-0.004, 2, "−0.004"),
            (0.00004, 2, "+0.00004"),
            (0.0, 4, "+0.0000"),
        ],
        *[(-0.0, 2, "+0.00"), (-3e-12, 4, "−3e−12"), (-0.00996, 2, "−0.01"), (0.0949, 1, "+0.1"), (0.049, 1, "+0.05")],
    ],
)
def test_a_difference_is_never_printed_as_zero_unless_it_is(value: float, digits: int, text: str) -> None:
    assert signed(value, digits) == text


# --- the paper's numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "tolerance"),
    [("90.6", 90.6, 0.05), ("0.081", 0.081, 0.0005), ("61.77 ± 0.02", 61.77, 0.025), ("12", 12.0, 0.5)],
)
def test_a_printed_number_is_known_to_its_last_digit_and_printed_spread(
    text: str, value: float, tolerance: float
) -> None:
    found = Printed.parse(text)
    assert (found.text, found.value, found.tolerance) == (text, value, pytest.approx(tolerance))


@pytest.mark.parametrize("number", paper()["tables"])
def test_every_table_can_be_filled(number: str) -> None:
    """Without a run it holds the paper's numbers; with runs of its task, ours beside them."""
    empty = build(frame(), number)
    assert all(row.final.n == 0 for row in empty.rows)
    for experiment in experiments(number):
        own = {"task": experiment.task, "model": experiment.model, "dataset": experiment.dataset}
        runs = frame(*seeds("sgd", SGD, **own, metric=experiment.metric), *seeds("tmsgd", TMSGD, **own))
        filled = build(runs, number)
        found = {row.optimizer: row for row in filled.rows if row.final.n}
        assert set(found) == {"sgd", "tmsgd"}
        assert {row.experiment.key for row in found.values()} == {experiment.key}
        assert found["tmsgd"].comparison is not None and found["tmsgd"].comparison.difference.n == 5


def test_the_halves_of_a_table_are_told_apart_and_are_one_family() -> None:
    rows = []
    for model in ("fast_rcnn", "rfbnet"):
        own = {"task": "od", "model": model, "dataset": "voc2007", "group": model, "metric": "map"}
        rows += [*seeds("sgd", SGD, **own), *seeds("tmsgd", TMSGD, **own)]
    table = build(frame(*rows), "3")
    cells = [line[0] for line in markdown_cells(table)[1:]]
    assert cells[:2] == ["Fast-RCNN: SGD", "Fast-RCNN: TM-SGD"] and cells[6] == "RFBNet: SGD"
    assert {row.comparison.family for row in table.rows if row.comparison and row.optimizer == "tmsgd"} == {10}


def test_runs_on_other_data_than_the_papers_do_not_replace_its_table() -> None:
    """data.years=2012 follows Table 2 as well, but is another table."""
    own = {"task": "seg", "model": "lraspp", "metric": "miou"}
    newer = {
        "dataset": "voc2007+2012",
        "group": "newer",
        "options": '{"name": "newer"}',
        "started": "2027-01-01T00:00:00+00:00",
    }
    runs = frame(*seeds("sgd", SGD, **own, dataset="voc2007"), *seeds("sgd", TMSGD, **own, **newer))
    table = build(runs, "seg")
    assert row(table, "SGD").final.mean == pytest.approx(sum(SGD) / 5)
    assert table.conditions.startswith("real data (voc2007), protocol table2")


def test_the_store_says_which_other_tables_it_has() -> None:
    runs = frame(
        *seeds("sgd", SGD, data="synthetic", protocols=("smoke",)),
        *seeds("tmsgd", TMSGD, protocols=()),
        a_run("sgd", 9, None, status="running", protocols=("corrected",)),
        a_run("sgd", 0, 1.0, task="seg"),
    )
    assert other_conditions(runs, "5") == (
        "5 on real data at other settings or on unverified data, which 'compare' shows; "
        "5 with --data synthetic --protocol smoke"
    )
    assert other_conditions(frame(), "5") == ""


def test_a_run_with_another_metric_than_the_papers_is_refused() -> None:
    with pytest.raises(StoreError, match=r"tc-lstm-sgd-seed0 reports 'f1' where Table 5 asks for 'accuracy'"):
        build(frame(a_run("sgd", 0, 0.9, metric="f1")), "5")


def test_the_papers_numbers_are_whole() -> None:
    """Every table names its reference among its rows and prints no optimizer twice."""
    for number, layout in paper()["tables"].items():
        assert isinstance(number, str)
        assert layout["direction"] in ("min", "max")
        for block in layout["blocks"]:
            optimizers = [row["optimizer"] for row in block["rows"]]
            assert layout["reference"] in optimizers
            assert len(set(optimizers)) == len(optimizers)
    keys = [experiment.key for experiment in every_experiment()]
    assert len(set(keys)) == len(keys)


def test_runs_that_could_not_measure_the_metric_are_left_out_and_counted(tmp_path: Path, write_run: Any) -> None:
    """A GAN trained without the weights that FID needs reports another distance: neither an error nor a number."""
    for number, metric in enumerate(("fid", "random_features_distance", "random_features_distance")):
        task, model = {"name": "ig", "dataset": "sneakers"}, {"name": "dcgan"}
        outcome = {"metric": metric, "unit": "", "direction": "min"}
        write_run(tmp_path, "sgd", number, final=float(number), task=task, model=model, outcome=outcome)
    row = tables.build(store.read_runs(tmp_path), "ig").rows[0]
    assert (row.final.n, row.final.mean) == (1, 0.0)
    assert "2 runs without FID left out" in row.marks


def test_a_protocol_with_a_metric_of_its_own_shows_no_printed_number() -> None:
    """The reduced GAN measures no FID: its table names its distance, and the paper's FIDs are not beside it."""
    distance = {"task": "ig", "model": "dcgan", "metric": "random_features_distance"}
    distance |= {"protocols": ("reduced",), "conditions": "the same"}
    table = build(frame(*seeds("sgd", SGD, **distance)), "ig", protocol="reduced")
    assert (table.rows[0].final.n, table.rows[0].marks) == (len(SGD), ())
    assert "FID" not in table.heading and "random-features distance" in table.heading
    assert all(row.printed is None for row in table.rows)
    assert any(row.printed for row in build(frame(), "ig").rows)
    with pytest.raises(StoreError, match="reports 'fid'"):
        build(frame(*seeds("sgd", SGD, **{**distance, "metric": "fid"})), "ig", protocol="reduced")


@pytest.mark.parametrize(("protocol", "shown"), [("reduced", 6), ("corrected", 24)])
def test_what_a_protocol_of_our_own_does_not_train_is_named_and_has_no_rows(protocol: str, shown: int) -> None:
    """The paper's own settings have a row for all that the paper trained."""
    about = {"task": "ic", "model": "vgg16", "dataset": "cifar10", "metric": "accuracy", "protocols": (protocol,)}
    table = build(frame(a_run(**about)), "ic", protocol=protocol)
    assert len(table.rows) == shown
    assert ("without runs: VGG16 on CIFAR-100, ResNet18" in table.conditions) == (protocol == "reduced")
    assert len(build(frame(), "ic", protocol=protocol).rows) == 24


def test_what_the_first_weights_can_do_is_a_row_of_its_own() -> None:
    """Last of its block, compared with nothing, once a seed, whatever the optimizer."""
    rows = [a_run(name, seed, initial=70.0) for name in ("sgd", "tmsgd") for seed in (0, 1)]
    table = build(frame(*rows), "5")
    *optimizers, before = table.rows
    assert (before.label, before.comparison, before.printed) == ("not fine-tuned", None, None)
    assert (before.final.mean, before.final.std, before.final.n) == (70.0, 0.0, 2)
    assert len(before.run_ids) == 4 and math.isnan(before.best.mean)
    assert [row.label for row in optimizers] == list(PRINTED)
    without = build(frame(*({**row, "initial": None} for row in rows)), "5")
    assert [row.label for row in without.rows] == list(PRINTED)
    for form in table_forms.FORMATS.values():
        assert "not fine-tuned" in form(table) and "not fine-tuned" not in form(without)


def test_a_tables_own_note_is_a_footnote_and_no_part_of_its_title() -> None:
    table = build(frame(), "ig")
    assert table.note and table.note not in table.heading and "³" in table.heading
    for text in (table_forms.to_markdown(table), table_forms.to_latex(table)):
        assert text.count(table.note) == 1
    assert "³" not in table_forms.to_markdown(build(frame(), "5"))


@pytest.mark.parametrize("started", ["2025-01-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00"], ids=["older", "newer"])
def test_an_optimizer_with_a_learning_rate_of_its_own_pushes_no_other_out(
    started: str, tmp_path: Path, write_run: Any
) -> None:
    """Whichever was trained last; and it has a row of its own."""
    environment = {"protocols": ["table2", "corrected"]}
    for seed in range(3):
        for optimizer, lr in (("sgd", 0.01), ("tmsgd", 0.01), ("mine", 0.001)):
            when = started if optimizer == "mine" else "2026-01-01T00:00:00+00:00"
            changes = {"options": {"lr": lr, "label": optimizer.upper()}, "ran": environment, "started": when}
            write_run(tmp_path, optimizer, seed, final=90.0 + seed + len(optimizer), **changes)
    table = build(store.read_runs(tmp_path), "5", "real", "table2")
    assert {found.label: found.final.n for found in table.rows if found.final.n} == {"SGD": 3, "TM-SGD": 3, "MINE": 3}
    assert not any("older" in mark for found in table.rows for mark in found.marks)


def test_a_run_that_was_evaluated_on_a_few_examples_is_marked(tmp_path: Path, write_run: Any) -> None:
    data = {"kind": "real", "limit": None, "fingerprint": "0123456789abcdef", "evaluation_limit": 80}
    write_run(tmp_path, "sgd", 0, data=data, ran={"protocols": ["table2"]})
    table = build(store.read_runs(tmp_path), "5", "real", "table2")
    assert "evaluated on 80 examples at most" in row(table, "SGD").marks
