"""The paper's claims: which runs count, the rule, and what is said where there is little to say."""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tmsgd_bench import manifest, tuning
from tmsgd_bench.files import canonical
from tmsgd_bench.results import claim_forms, claims, margins, numerical, store
from tmsgd_bench.results.claims import Claim, Verdicts
from tmsgd_bench.results.families import PRINTED_FROM
from tmsgd_bench.results.numerical import CLAIMED_ORDER, Numerics
from tmsgd_bench.results.paper import every_experiment, experiments
from tmsgd_bench.results.statistics import FEW_SEEDS, holm
from tmsgd_bench.results.store import COLUMNS
from tmsgd_bench.version import PROTOCOLS

SGD = [90.1, 90.4, 90.2, 90.7, 90.5]
BETTER = [91.2, 91.4, 91.3, 91.7, 91.6]
WORSE = [89.2, 89.4, 89.3, 89.7, 89.6]
NO_NUMERICS = Numerics(CLAIMED_ORDER, {})


def options_of(optimizer: str, switch_epoch: int, **others: Any) -> str:
    """The options of an optimizer as the frame has them."""
    switch = {"switch_epoch": switch_epoch} if optimizer.startswith("tmsgd") else {}
    return canonical({"name": optimizer, **switch, **others})


def a_run(optimizer: str, seed: int, final: float | None, **changes: Any) -> dict[str, Any]:
    """A row of the frame: a finished run on real data that follows Table 2."""
    row = {
        "run_id": f"{optimizer}-seed{seed}-{changes.get('switch_epoch', '')}{changes.get('task', '')}",
        "status": "done",
        "task": "tc",
        "model": "lstm",
        "dataset": "r8",
        "optimizer": optimizer,
        "switch_epoch": 100 if optimizer.startswith("tmsgd") else None,
        "seed": seed,
        "data": "real",
        "epochs": 120,
        "protocols": ("table2",),
        "benchmark_version": 1,
        "group": f"group-{changes.get('task')}",
        "options": options_of(optimizer, changes.get("switch_epoch", 100)),
        "metric": "accuracy",
        "final": final,
        "best": final,
        "started": "2026-01-01T00:00:00+00:00",
    }
    return row | changes


def seeds(optimizer: str, values: Iterable[float | None], **changes: Any) -> list[dict[str, Any]]:
    return [a_run(optimizer, seed, value, **changes) for seed, value in enumerate(values)]


def evaluate(*rows: dict[str, Any], numerics: Numerics = NO_NUMERICS, protocol: str | None = None) -> Verdicts:
    return claims.evaluate(pd.DataFrame(list(rows), columns=pd.Index(COLUMNS)), numerics, protocol)


def the(verdicts: Verdicts, name: str, level: str | None = None) -> Claim:
    (found,) = (claim for claim in verdicts.claims if claim.id == name and level in (None, claim.level))
    return found


def against_sgd(*rows: dict[str, Any], **options: Any) -> Claim:
    return the(evaluate(*seeds("sgd", SGD), *rows, **options), "tc/lstm tmsgd/sgd")


def numbers(verdicts: Verdicts) -> dict[str, Any]:
    """What is said of each claim, without the runs' names, and with every NaN equal to itself."""
    return {claim.id: (claim.verdict, repr(claim.comparison), claim.marks) for claim in verdicts.claims}


# --- the list ------------------------------------------------------------------------------------------------------


def test_every_claim_has_a_place_words_or_a_note_and_a_name_of_its_own() -> None:
    found = evaluate().claims
    assert len({claim.id for claim in found}) == len(found)
    for claim in found:
        assert claim.place and claim.statement
        assert claim.says or claim.note
        assert claim.experiment or claim.parts or claim.id in numerical.RULES


def test_every_experiment_of_the_paper_has_its_main_claims() -> None:
    """TM-SGD against SGD, and eq. (8) from the start."""
    names = {claim.id for claim in evaluate().claims}
    for experiment in every_experiment():
        assert {f"{experiment.key} tmsgd/sgd", f"{experiment.key} sgd/tmsgd@0"} <= names


def test_every_pair_that_the_paper_prints_of_tmsgd_is_a_claim_with_the_printed_sign() -> None:
    every = evaluate().claims
    for experiment in every_experiment():
        own = [claim for claim in every if claim.experiment == experiment]
        pairs = {frozenset(claim.id.split()[1].split("/")): claim for claim in own}
        for optimizer in set(experiment.printed) - {"tmsgd"}:
            claim = pairs[frozenset((optimizer, "tmsgd"))]
            assert claim.printed is not None
            assert (claim.printed.value > 0) == (experiment.direction == "max")


def test_without_runs_no_claim_about_training_is_tested() -> None:
    for claim in evaluate().claims:
        if claim.id != "order":
            assert claim.verdict == "not yet tested"
            assert claim.run_ids == () and claim.marks == ()


# --- the rule ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "verdict"),
    [(BETTER, "supported"), (WORSE, "contradicted"), (SGD[::-1], "undecided"), (SGD, "undecided")],
)
def test_a_claim_is_decided_by_its_paired_difference(values: list[float], verdict: str) -> None:
    claim = against_sgd(*seeds("tmsgd", values))
    assert claim.verdict == verdict
    assert claim.comparison is not None
    assert claim.comparison.difference.mean == pytest.approx(sum(values) / 5 - sum(SGD) / 5)
    assert set(claim.run_ids) == {f"{name}-seed{seed}-" for name in ("sgd", "tmsgd") for seed in range(5)}


def test_where_lower_is_better_lower_supports() -> None:
    own = {"task": "fkpd", "model": "preact_resnet34", "metric": "mse"}
    rows = [*seeds("sgd", SGD, **own), *seeds("tmsgd", WORSE, **own)]
    assert the(evaluate(*rows), "fkpd/preact_resnet34 tmsgd/sgd").verdict == "supported"


def test_p_is_corrected_over_the_claims_of_the_table_tested_or_not() -> None:
    others = {"sgdm": [90.0, 91.5, 90.1, 90.2, 91.0], "adam": [*WORSE[1:], WORSE[0]], "apollo": WORSE[::-1]}
    names = {"sgd": SGD, "tmsgd": BETTER, **others}
    found = evaluate(*(row for name, values in names.items() for row in seeds(name, values)))
    family = [claim.comparison for claim in found.claims if claim.experiment and claim.experiment.task == "tc"]
    tested = [one for one in family if one and not math.isnan(one.p)]
    assert (len(tested), len(family)) == (4, 6)
    assert [one.p_holm for one in tested] == pytest.approx(holm([one.p for one in tested], 6))
    assert {one.family for one in tested} == {6}


def test_runs_of_another_task_change_no_verdict() -> None:
    rows = [*seeds("sgd", SGD), *seeds("tmsgd", BETTER)]
    own = {"task": "seg", "model": "lraspp", "metric": "miou", "dataset": "voc2007"}
    others = [row for name in ("sgd", "tmsgd", "adam") for row in seeds(name, WORSE, **own)]
    before, after = numbers(evaluate(*rows)), numbers(evaluate(*rows, *others))
    assert {key: after[key] for key in before if key.startswith("tc/")} == {
        key: value for key, value in before.items() if key.startswith("tc/")
    }
    assert after["seg/lraspp tmsgd/sgd"][0] == "undecided"


def test_a_claim_without_evidence_says_that_other_settings_were_tried() -> None:
    own = {"task": "seg", "model": "lraspp", "metric": "miou", "dataset": "voc2007", "protocols": ("corrected",)}
    rows = [*seeds("sgd", SGD, **own), *seeds("tmsgd", BETTER, **own), a_run("sgd", 9, 1.0, **own, data="synthetic")]
    claim = the(evaluate(*rows), "seg/lraspp tmsgd/sgd", "full")
    assert (claim.verdict, claim.marks) == ("not yet tested", ("10 runs of protocol corrected",))
    assert "SEG LRASPP (10 runs of protocol corrected)" in " ".join(claim_forms.to_text(evaluate(*rows)).split())
    assert the(evaluate(*rows), "seg/lraspp tmsgd/sgd", "full (corrected)").verdict == "supported"


def test_the_halves_of_table_3_are_one_family() -> None:
    rows = []
    for model in ("fast_rcnn", "rfbnet"):
        own = {"task": "od", "model": model, "dataset": "voc2007", "metric": "map", "group": model}
        rows += [*seeds("sgd", SGD, **own), *seeds("tmsgd", BETTER, **own)]
    both, one = (the(evaluate(*some), "od/rfbnet tmsgd/sgd").comparison for some in (rows, rows[10:]))
    assert both is not None and one is not None
    assert (both.family, one.family) == (10, 5)  # a model without a run costs the other nothing


def test_differences_that_are_all_equal_decide_nothing_and_are_marked() -> None:
    claim = against_sgd(*seeds("tmsgd", [value + 0.25 for value in SGD]))
    assert (claim.verdict, claim.marks) == ("undecided", ("all differences are equal",))


@pytest.mark.parametrize("n", [1, 3, FEW_SEEDS - 1, FEW_SEEDS])
def test_few_seeds_are_marked(n: int) -> None:
    marks = against_sgd(*seeds("tmsgd", BETTER[:n])).marks
    assert marks == ((f"few seeds (n={n})",) if n < FEW_SEEDS else ())


# --- diverged runs -------------------------------------------------------------------------------------------------


def diverged(optimizer: str, count: int, **changes: Any) -> list[dict[str, Any]]:
    return seeds(optimizer, [None] * count, status="diverged", **changes)


def test_divergence_in_eight_of_eight_pairs_decides() -> None:
    """The sign test has p = 2/2⁸, and 12/2⁸ after correction for the six claims; with seven pairs it is undecided."""
    for count, verdict in ((8, "supported"), (7, "undecided (8 seeds would decide)")):
        rows = [*seeds("tmsgd", [90.0 + seed / 8 for seed in range(count)]), *diverged("adam", count)]
        claim = the(evaluate(*rows), "tc/lstm tmsgd/adam")
        assert claim.judgement.text == verdict
        assert f"Adam: {count} diverged" in claim.marks
        assert f"sign test: {count} pairs above, 0 below" in claim.marks


def test_what_diverged_on_both_sides_was_tested_and_decides_nothing() -> None:
    claim = the(evaluate(*diverged("tmsgd", 6), *diverged("adam", 6)), "tc/lstm tmsgd/adam")
    assert claim.verdict == "undecided"
    assert len(claim.run_ids) == 12


# --- which runs count ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"data": "synthetic"}, {"protocols": ("smoke",)}, {"protocols": ()}, {"model": "gru"}, {"group": "another"}],
    ids=lambda change: str(next(iter(change))),
)
def test_only_real_runs_that_follow_the_protocol_and_can_be_compared_count(change: dict[str, Any]) -> None:
    rows = seeds("tmsgd", BETTER, **change, started="2025-01-01T00:00:00+00:00")
    assert against_sgd(*rows).verdict == "not yet tested"


@pytest.mark.parametrize("status", ["failed", "running", "abandoned"])
def test_runs_that_have_not_ended_do_not_count_and_are_told(status: str) -> None:
    claim = against_sgd(*seeds("tmsgd", [None] * 5, status=status))
    assert (claim.verdict, claim.marks) == ("not yet tested", (f"TM-SGD: 5 {status}",))


def test_the_corrected_protocol_has_verdicts_of_its_own() -> None:
    rows = [*seeds("sgd", SGD, protocols=("corrected",)), *seeds("tmsgd", BETTER, protocols=("corrected",))]
    assert the(evaluate(*rows, protocol="corrected"), "tc/lstm tmsgd/sgd").verdict == "supported"
    assert the(evaluate(*rows, protocol="table2"), "tc/lstm tmsgd/sgd").verdict == "not yet tested"


def test_a_claim_has_a_verdict_at_each_level_that_has_runs() -> None:
    """And one at the level of the paper's settings in any case."""
    reduced = {"protocols": ("reduced",), "conditions": "reduced", "group": "reduced", "epochs": 40}
    rows = [
        row for changes in ({}, reduced) for row in (*seeds("sgd", SGD, **changes), *seeds("tmsgd", BETTER, **changes))
    ]
    rows[15:] = seeds("tmsgd", WORSE, **reduced)
    rows = [row | {"run_id": f"{row['run_id']}{row['group']}"} for row in rows]
    found = evaluate(*rows)
    verdicts = {claim.level: claim.verdict for claim in found.claims if claim.id == "tc/lstm tmsgd/sgd"}
    assert verdicts == {"full": "supported", "reduced": "contradicted"}
    assert [claim.level for claim in found.claims if claim.id == "tc/lstm tmsgd/adam"] == ["full"]
    assert [claim.level for claim in found.claims if claim.id.startswith("every tmsgd/sgd V ")] == []
    assert set(found.counts) == {"full", "reduced", "numerical"}
    only = evaluate(*rows[10:])
    assert the(only, "tc/lstm tmsgd/sgd", "full").marks == ("10 runs of protocol reduced",)
    assert the(only, "tc/lstm tmsgd/sgd", "reduced").verdict == "contradicted"


def test_runs_of_two_protocols_are_listed_at_one_level() -> None:
    rows = [*seeds("sgd", SGD), *seeds("tmsgd", BETTER)]
    found = evaluate(*(row | {"protocols": ("table2", "corrected")} for row in rows))
    assert the(found, "tc/lstm tmsgd/sgd").level == "full"


def test_tuned_optimizers_are_paired_whatever_their_learning_rates() -> None:
    """But only at the rates that their searches chose."""
    shared = {"protocols": ("tuned",), "conditions": "the same", "split": "test"}
    rows = [
        *seeds("sgd", SGD, group="lr 0.1", lr=0.1, **shared),
        *seeds("tmsgd", BETTER, group="lr 1", lr=1.0, **shared),
    ]
    of_sgd, of_tmsgd = search_of("sgd", 0.1), search_of("tmsgd", 1.0)
    verdict = lambda *rows: the(evaluate(*rows, protocol="tuned"), "tc/lstm tmsgd/sgd").verdict  # noqa: E731
    assert verdict(*rows) == verdict(*rows, *of_sgd) == "not yet tested"
    assert verdict(*rows, *of_sgd, *of_tmsgd) == "supported"
    assert verdict(*rows, *of_sgd, *search_of("tmsgd", 0.1)) == "not yet tested"


def search_of(optimizer: str, best: float) -> list[dict[str, Any]]:
    """A search for a learning rate, which finds that one."""
    shared = {"protocols": ("tuned",), "conditions": "validated", "split": "validation", "direction": "max"}
    return [
        a_run(optimizer, seed, 90.0 - abs(place), run_id=f"{optimizer} {seed} {place}", lr=lr, verified=True, **shared)
        for place, lr in zip(tuning.half_decades(), tuning.grid(best), strict=True)
        for seed in tuning.search_seeds()
    ]


def test_the_reduced_protocol_pairs_optimizers_of_different_learning_rates() -> None:
    """And eq. (8) from the first step with its own SGD, of the same learning rate."""
    shared = {"protocols": ("reduced",), "conditions": "the same"}
    sgd, tmsgd = seeds("sgd", SGD, group="lr 0.1", **shared), seeds("tmsgd", BETTER, group="lr 0.1", **shared)
    adam = seeds("adam", WORSE, group="lr 0.001", **shared)
    from_start = seeds("tmsgd", WORSE, group="lr 0.1", conditions="the same", protocols=(), switch_epoch=0)
    verdicts = evaluate(*sgd, *tmsgd, *adam, *from_start, protocol="reduced")
    for name in ("tmsgd/sgd", "tmsgd/adam", "sgd/tmsgd@0"):
        comparison = the(verdicts, f"tc/lstm {name}").comparison
        assert comparison is not None and comparison.pairs == len(SGD)
    assert "protocol reduced" in verdicts.conditions


def test_the_order_of_runs_does_not_count() -> None:
    rows = [*seeds("sgd", SGD), *seeds("tmsgd", BETTER), *diverged("adam", 5)]
    assert numbers(evaluate(*rows)) == numbers(evaluate(*rows[::-1]))


def from_start(*rows: dict[str, Any]) -> Claim:
    rows = (*seeds("sgd", SGD), *seeds("tmsgd", BETTER), *rows)
    return the(evaluate(*rows), "tc/lstm sgd/tmsgd@0")


def test_eq_8_from_the_start_is_the_runs_that_differ_in_the_switch_epoch_alone() -> None:
    zero = {"switch_epoch": 0, "protocols": ()}
    claim = from_start(*seeds("tmsgd", WORSE, **zero))
    assert claim.verdict == "supported"
    assert {run_id for run_id in claim.run_ids if run_id.startswith("tmsgd")} == {f"tmsgd-seed{n}-0" for n in range(5)}
    assert from_start(*seeds("tmsgd", BETTER, **zero)).verdict == "contradicted"


@pytest.mark.parametrize(
    "change",
    [{"switch_epoch": 1}, {"options": options_of("tmsgd", 0, scheme="another")}, {"group": "another data set"}],
    ids=str,
)
def test_other_runs_are_not_eq_8_from_the_start(change: dict[str, Any]) -> None:
    changes = {"switch_epoch": 0, "protocols": ()} | change
    assert from_start(*seeds("tmsgd", WORSE, **changes)).verdict == "not yet tested"


def test_a_protocol_that_never_switches_is_told() -> None:
    claim = against_sgd(*seeds("tmsgd", SGD, switch_epoch=200))
    assert claim.verdict == "undecided"
    assert claim.marks == ("TM-SGD: never switches: eq. (8) is not used", "all differences are equal")


# --- claims made of several ----------------------------------------------------------------------------------------

FID = {"task": "ig", "model": "dcgan", "metric": "fid"}
FID_NOISE = [0.001, -0.001, 0.002, -0.002, 0.0, 0.003]


def gan(**means: float) -> list[dict[str, Any]]:
    """Six seeds of each optimizer, with noise of its own."""
    rows = []
    for place, (name, mean) in enumerate(means.items()):
        rows += seeds(name, [mean + noise * (1 + 0.1 * place) for noise in FID_NOISE], **FID)
    return rows


@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ({"adam": 1.0, "tmsgd": 2.0, "sgdm": 3.0, "sgd": 4.0}, "supported"),
        ({"adam": 2.0, "tmsgd": 1.0, "sgdm": 3.0, "sgd": 4.0}, "contradicted"),
        ({"adam": 1.0, "tmsgd": 2.0, "sgdm": 3.0}, "undecided"),
        ({"adam": 1.0}, "not yet tested"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_an_order_holds_if_each_of_its_steps_does(means: dict[str, float], verdict: str) -> None:
    found = evaluate(*gan(**means))
    claim = next(claim for claim in found.claims if claim.place == "IV-B-3" and claim.parts)
    assert claim.verdict == verdict
    assert len(claim.parts) == 3 and "seeds" not in claim.judgement.text
    for part in claim.parts:
        assert the(found, part).verdict in ("not yet tested", verdict, "supported")


def test_under_another_metric_a_pair_is_compared_without_a_printed_difference() -> None:
    reduced = {**FID, "metric": "random_features_distance", "protocols": ("reduced",), "conditions": "the same"}
    rows = [*seeds("adam", [1.0 + noise for noise in NOISE], **reduced), *seeds("sgd", [2.0] * len(NOISE), **reduced)]
    claim = the(evaluate(*rows, protocol="reduced"), "ig/dcgan adam/sgd")
    assert (claim.verdict, claim.printed) == ("supported", None)
    assert claim.experiment is not None and claim.experiment.metric == "random_features_distance"
    assert the(evaluate(*gan(adam=1.0, sgd=2.0)), "ig/dcgan adam/sgd").printed is not None


def test_a_claim_about_all_tasks_says_how_many_were_tested() -> None:
    found = evaluate(*seeds("sgd", SGD[:3]), *seeds("tmsgd", BETTER[:3]))
    (one, other) = (claim for claim in found.claims if claim.id.startswith("every tmsgd/sgd"))
    experiments = len(list(every_experiment()))
    assert one.evidence == other.evidence == f"1 of {experiments} tested, 1 {the(found, 'tc/lstm tmsgd/sgd').verdict}"
    assert one.verdict == "undecided"
    assert one.marks == ("few seeds",)


# --- margins and the last epochs -----------------------------------------------------------------------------------


def around(shift: float, n: int = 10) -> list[float]:
    return [value + shift + noise for value, noise in zip((SGD * 2)[:n], NOISE, strict=False)]


def test_a_difference_far_below_the_printed_one_is_no_such_difference() -> None:
    """The margin is half of +0.3."""
    claim = the(evaluate(*seeds("sgd", SGD * 2), *seeds("tmsgd", around(0.0))), "tc/lstm tmsgd/sgd")
    assert claim.verdict == "no such difference"
    assert claim.judgement.margin == pytest.approx(0.15)
    assert "margin ±0.15" in " ".join(claim_forms.facts(claim))


def test_an_undecided_claim_says_how_many_seeds_would_decide_it() -> None:
    claim = against_sgd(*seeds("tmsgd", SGD[::-1]))
    assert re.search(r"undecided \(\d+ seeds would decide\)", claim_forms.cells(claim).verdict)


def test_every_metric_has_a_margin_and_a_reason() -> None:
    rules = margins.rules()["metrics"]
    assert set(rules) >= {one.metric for protocol in PROTOCOLS for one in every_experiment(protocol)}
    assert all(set(rule) in ({"points", "reason"}, {"share", "reason"}) for rule in rules.values())


def test_where_the_scale_is_its_own_the_printed_difference_is_a_share() -> None:
    """FID: 0.0925 − 0.081 printed, of 0.0925. Ours are a hundred times as large."""
    (experiment,) = experiments("ig")
    assert margins.margin(experiment, "tmsgd", "sgd", 9.25) == pytest.approx(100 * (0.0925 - 0.081) / 2)
    assert margins.margin(experiment, "tmsgdm", "sgdm", 9.0) == pytest.approx(0.18)


@pytest.mark.parametrize(("epochs", "reported"), [(100, True), (99, False)])
def test_long_runs_also_report_the_mean_of_their_last_epochs(
    epochs: int, reported: bool, tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    """Of 20 epochs, if there are 100 or more. TM-SGD is 4 points worse than SGD in each of them but the last."""

    def late(folder: Path, last: float) -> None:
        values = [last - 2.0, last + 1.0, *[last - 5.0] * (epochs - 3), last]  # SGD's has last − 1 in place of − 5
        store.write_history(folder / store.HISTORY, [{"epoch": float(e), "accuracy": v} for e, v in enumerate(values)])

    for seed, (sgd, tmsgd) in enumerate(zip(SGD, BETTER, strict=True)):
        write_run(tmp_path, "sgd", seed, final=sgd, epochs=epochs)
        write_run(tmp_path, "tmsgd", seed, final=tmsgd, epochs=epochs, extra=functools.partial(late, last=tmsgd))
    claim = the(claims.evaluate(store.read_runs(tmp_path), NO_NUMERICS), "tc/lstm tmsgd/sgd")
    assert claim.verdict == "supported" and claim.comparison is not None
    assert (claim.last is not None) == reported
    if claim.last is not None:
        assert claim.last.difference.mean == pytest.approx(claim.comparison.difference.mean - 4.0 * 19 / 20)
        assert claim_forms.last(claim).endswith("mean of 20")


# --- the printed difference ----------------------------------------------------------------------------------------


NOISE = [0.01, -0.01, 0.02, -0.02, 0.0, 0.03, -0.03, 0.0, 0.01, -0.01]


@pytest.mark.parametrize(
    ("shift", "outside"), [(0.3, False), (0.2, False), (0.4, False), (0.15, True), (0.45, True), (-0.3, True)]
)
def test_the_printed_difference_is_known_to_its_rounding(shift: float, outside: bool) -> None:
    """90.9 − 90.6, each known to ± 0.05; it is outside only if all of 0.2 … 0.4 is."""
    base = SGD * 2
    ours = [value + shift + noise for value, noise in zip(base, NOISE, strict=True)]
    printed = the(evaluate(*seeds("sgd", base), *seeds("tmsgd", ours)), "tc/lstm tmsgd/sgd").printed
    assert printed is not None and printed.outside is outside
    assert (printed.value, printed.tolerance) == (pytest.approx(0.3), pytest.approx(0.1))


@pytest.mark.parametrize("n", [PRINTED_FROM - 1, PRINTED_FROM])
def test_a_few_seeds_exclude_no_printed_difference(n: int) -> None:
    base = (SGD * 2)[:n]
    rows = seeds("tmsgd", [value + 5.0 + noise for value, noise in zip(base, NOISE, strict=False)])
    claim = the(evaluate(*seeds("sgd", base), *rows), "tc/lstm tmsgd/sgd")
    assert claim_forms.cells(claim).outside == ("yes" if n == PRINTED_FROM else "too few seeds")


def test_without_our_difference_nothing_is_said_of_the_printed_one() -> None:
    claim = against_sgd()
    assert claim.printed is not None and claim.printed.outside is None
    assert claim_forms.cells(claim).outside == "–"


def test_a_printed_spread_widens_it() -> None:
    """62.29 ± 0.05 − 61.77 ± 0.02, and half a unit of the last digit each."""
    printed = the(evaluate(), "od/fast_rcnn tmsgd/sgd").printed
    assert printed is not None
    assert (printed.value, printed.tolerance) == (pytest.approx(0.52), pytest.approx(0.08))


# --- numerics ------------------------------------------------------------------------------------------------------


def fitted(taylor: float, euler: float = 1.0) -> dict[str, pd.DataFrame]:
    rows = [("decay", "taylor3", taylor), ("decay", "euler", euler), ("decay", "c=1/3", 7.0)]
    return {"order_fitted": pd.DataFrame(rows, columns=["problem", "rule", "fitted"])}


@pytest.mark.parametrize(
    ("orders", "tables", "verdict"),
    [
        (CLAIMED_ORDER, {}, "supported"),
        (CLAIMED_ORDER, fitted(1.97), "supported"),
        (CLAIMED_ORDER, fitted(1.4), "undecided"),
        (CLAIMED_ORDER, fitted(2.0, euler=1.6), "undecided"),
        ({"taylor3": 1, "euler": 1}, fitted(2.0), "contradicted"),
    ],
)
def test_the_order_is_computed_and_measured(
    orders: dict[str, int], tables: dict[str, pd.DataFrame], verdict: str
) -> None:
    finding = numerical.order(Numerics(orders, tables))
    assert finding.verdict == verdict
    assert (numerical.COMMAND in finding.evidence) == (not tables)


@pytest.mark.parametrize(("smaller", "verdict"), [(2, "supported"), (1, "undecided"), (0, "contradicted")])
def test_accuracy_and_fluctuation_count_cases(smaller: int, verdict: str) -> None:
    errors = [("a", rule, steps, error) for steps in (8, 16) for rule, error in errors_of(steps <= 8 * smaller)]
    order = pd.DataFrame(errors, columns=["problem", "rule", "steps", "error"])
    rises = [(problem, start, rise) for problem in (1, 2) for start, rise in rises_of(problem <= smaller)]
    early = pd.DataFrame(rises, columns=["problem", "start", "total_rise"])
    for finding in (
        numerical.accuracy(Numerics(CLAIMED_ORDER, {"order": order})),
        numerical.fluctuation(Numerics(CLAIMED_ORDER, {"early": early})),
    ):
        assert finding.verdict == verdict
        assert f"in {smaller} of 2 cases" in finding.evidence


def errors_of(better: bool) -> list[tuple[str, float]]:
    return [("euler", 1.0), ("taylor3", 0.5 if better else 2.0)]


def rises_of(more: bool) -> list[tuple[str, float]]:
    return [("SGD", 1.0), ("TM-SGD from the start", 2.0 if more else 0.5)]


def test_the_package_computes_the_claimed_orders(tmp_path: Path) -> None:
    assert numerical.read_numerics(tmp_path).orders == CLAIMED_ORDER
    assert numerical.read_numerics(tmp_path).tables == {}


GOOD = "problem,rule,steps,error\na,euler,1,2.0\na,taylor3,1,1.0\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "order.csv cannot be read"),
        ("a,b\n1,2\n", "order.csv has no column problem, rule, steps, error"),
        (GOOD.replace("2.0", "two"), "error of order.csv is not all numbers"),
        (GOOD.replace("euler", "other"), "rule of order.csv does not name euler and taylor3"),
    ],
)
def test_a_table_that_is_not_the_commands_is_named_and_not_judged(
    tmp_path: Path, text: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "order.csv").write_text(text)
    manifest.write(tmp_path, ["order.csv"])
    finding = numerical.accuracy(numerical.read_numerics(tmp_path))
    assert finding.verdict == "not yet tested" and finding.evidence.startswith(f"not judged: {reason}")
    assert reason in caplog.text


def test_an_edited_table_is_named_and_not_judged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "order.csv").write_text(GOOD)
    assert "has no checksum" in numerical.accuracy(numerical.read_numerics(tmp_path)).evidence
    manifest.write(tmp_path, ["order.csv"])
    assert numerical.accuracy(numerical.read_numerics(tmp_path)).verdict == "supported"
    (tmp_path / "order.csv").write_text(GOOD.replace("1.0", "3.00"))
    finding = numerical.accuracy(numerical.read_numerics(tmp_path))
    assert finding.evidence == "not judged: order.csv differs from its checksum"
    assert finding.verdict == "not yet tested" and "order.csv differs" in caplog.text
    (tmp_path / "order.csv").unlink()
    assert numerical.accuracy(numerical.read_numerics(tmp_path)).evidence == "not judged: order.csv is missing"


# --- forms ---------------------------------------------------------------------------------------------------------


@functools.cache  # a third of a second each
def found() -> Verdicts:
    rows = [*seeds("sgd", SGD), *seeds("tmsgd", BETTER), *seeds("sgdm", SGD[::-1]), *diverged("adam", 3)]
    return evaluate(*rows, numerics=Numerics(CLAIMED_ORDER, fitted(2.0)))


@pytest.mark.parametrize("form", claim_forms.FORMATS)
def test_every_form_has_every_claim_and_the_conditions(form: str) -> None:
    text = claim_forms.FORMATS[form](found())
    flat = " ".join(text.replace("$<$", "<").split())
    for claim in found().claims:
        assert claim.statement.replace("&", r"\&" if form == "tex" else "&") in flat
    assert "real data" in flat
    assert form == "csv" or "Holm's correction over the claims of one table" in flat.replace(" % ", " ")


def test_markdown_and_latex_have_a_row_for_each_claim() -> None:
    verdicts = found()
    markdown = [line for line in claim_forms.to_markdown(verdicts).splitlines() if line.startswith("| ")]
    latex = [line for line in claim_forms.to_latex(verdicts).splitlines() if line.endswith(r" \\")]
    assert len(markdown) - 2 == len(latex) - 1 == len(verdicts.claims)
    assert {len(re.findall(r"(?<!\\)&", line)) for line in latex} == {len(claim_forms.HEADS) - 1}
    assert {line.count("|") for line in markdown} == {len(claim_forms.HEADS) + 1}


def test_latex_is_ascii_but_for_its_comments() -> None:
    lines = claim_forms.to_latex(found()).splitlines()
    assert all(line.isascii() for line in lines if not line.startswith("%"))


def test_csv_has_all_numbers_in_full() -> None:
    verdicts = found()
    read = pd.read_csv(io.StringIO(claim_forms.to_csv(verdicts)), keep_default_na=True)
    for claim, (_, row) in zip(verdicts.claims, read.iterrows(), strict=True):
        assert (row["id"], row["verdict"]) == (claim.id, claim.verdict)
        if claim.comparison is not None:
            expected = [claim.comparison.difference.mean, claim.comparison.p_holm, claim.comparison.detectable]
            assert list(row[["difference", "p_holm", "detectable"]].astype(float)) == pytest.approx(
                expected, nan_ok=True, rel=1e-15
            )
        assert ("" if pd.isna(row["runs"]) else row["runs"]).split() == list(claim.run_ids)
        assert ("" if pd.isna(row["marks"]) else row["marks"]) == "; ".join(claim.marks)


def test_the_counts_are_of_all_claims() -> None:
    verdicts = found()
    assert sum(sum(counts.values()) for counts in verdicts.counts.values()) == len(verdicts.claims)
    lines = claim_forms.to_text(verdicts).splitlines()
    for level, counts in verdicts.counts.items():
        assert f"{level}: {claim_forms.tally(counts)}" in lines


PRINTS: dict[str, Callable[[Verdicts], str]] = {name: claim_forms.FORMATS[name] for name in ("text", "md")}


@pytest.mark.parametrize("form", PRINTS)
def test_marks_stand_beside_the_verdict(form: str) -> None:
    """Few seeds and divergence are told wherever a verdict is."""
    text = PRINTS[form](evaluate(*seeds("sgd", SGD[:3]), *seeds("tmsgd", BETTER[:3]), *diverged("adam", 3)))
    assert "few seeds (n=3)" in text and "Adam: 3 diverged" in text
