"""The numbers on the pages are those of the published tables and of the published runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from tmsgd_bench.results import store
from tmsgd_bench.results.statistics import Difference, paired_difference

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
NUMBER = r"[+−-]?\d+(?:\.\d+)?"
INTERVAL = re.compile(rf"({NUMBER})(?: points(?: of \w+)?| in \w+)? \[({NUMBER}), ({NUMBER})\]")
"""A difference and its interval: +0.05 [+0.01, +0.09]."""


def rows(text: str) -> dict[str, list[str]]:
    """The cells of a page's tables by their first one."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in cells}


def test_the_readmes_numbers_are_those_of_the_published_table() -> None:
    """Each below the head of its column, which may be shorter than the published one."""
    published = rows((ROOT / "results/table5/table5.md").read_text(encoding="utf-8"))
    readme = rows(PAGES["README.md"].partition("## Use the optimizer")[0])
    heads, known = readme.pop("Optimizer"), published.pop("Optimizer")
    places = [next(place for place, full in enumerate(known) if full.startswith(head)) for head in heads]
    del readme["---"]
    assert len(readme) == 6
    assert {name: [published[name][place] for place in places] for name in readme} == readme


def test_the_reduced_pages_numbers_are_those_of_the_published_tables() -> None:
    page = PAGES["docs/reduced.md"].partition("## Results")[2]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    head, *body = [line for line in lines if len(line) == 12]
    body = [line for line in body if "](../results/reduced/" in line[0]]
    assert len(body) >= 9
    for line in body:
        (table,) = re.findall(r"\]\(\.\./(\S+)\.md\)", line[0])
        *dataset, model = re.findall(r"`(\w+)`", line[0].partition(")")[2])
        rows = pd.read_csv(ROOT / f"{table}.csv").query("model == @model and n > 0").set_index("optimizer")
        rows = rows[rows["dataset"].isin(dataset)] if dataset else rows
        assert int(line[-1]) == rows["n"].max(), (model, dataset)
        for optimizer, cell in list(zip(head, line, strict=True))[3:9]:
            number = cell.split()[0]
            if number == "–":
                assert optimizer not in rows.index
                continue
            decimals = len(number.partition(".")[2])
            assert f"{rows.loc[optimizer, 'mean']:.{decimals}f}" == number, (model, optimizer)
            fewer = rows.loc[optimizer, "n"] < rows["n"].max()
            assert cell.endswith(f" (n={rows.loc[optimizer, 'n']})") == fewer, (model, optimizer)


def differences(pages: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """The numbers of each difference with an interval: the mean and the two ends."""
    for page in pages:
        yield from INTERVAL.findall(" ".join(page.replace("\\", "").split()))


def is_rounded(printed: tuple[str, ...], exact: tuple[float, ...]) -> bool:
    """Whether a page gives these numbers, to as many decimals as it has, with A − B or B − A as the difference."""
    mean, low, high = exact
    for numbers in ((mean, low, high), (-mean, -high, -low)):
        off = [
            abs(float(text.replace("−", "-")) - number) * 10 ** len(text.partition(".")[2])
            for text, number in zip(printed, numbers, strict=True)
        ]
        if max(off) <= 0.5 + 1e-6:
            return True
    return False


def in_tables() -> set[tuple[float, ...]]:
    """All differences with intervals in the tables that ``verify`` makes again."""
    triples: set[tuple[float, ...]] = set()
    for path in (ROOT / "results").rglob("*.csv"):
        table = pd.read_csv(path)
        for columns in (["difference", "low", "high"], ["last_difference", "last_low", "last_high"]):
            if set(columns) <= set(table.columns):
                triples |= set(table[columns].dropna().itertuples(index=False, name=None))
    return triples


def final(folder: str, begin: str, condition: str = "seed >= 0") -> pd.Series:
    """The final metrics, by seed, of the published runs whose names begin so."""
    return store.read_runs(ROOT / "results" / folder, begin).query(condition).set_index("seed")["final"]


def on_some_seeds() -> Iterator[Difference]:
    """The differences on the pages that no table has, because they leave out or exchange runs."""
    for model, left_out in (("tc-lstm", 2000), ("fkpd-preact_resnet34", 2008)):
        tested = (
            final("tuned", f"{model}-{name}-", f"seed > 1999 and seed != {left_out}") for name in ("tmsgd", "sgd")
        )
        yield paired_difference(*tested)
    images = "dataset == 'cifar10' and seed > 4"
    from_start = final("reduced/from_start", "ic-vgg16-", images)
    yield paired_difference(from_start, final("reduced/ic", "ic-vgg16-sgd-", images))
    sgd = final("switch", "tc-lstm-sgd-", "seed not in (3, 4)")
    like_switch_0 = pd.concat([sgd, final("table5", "tc-lstm-sgd-", "seed in (3, 4)")])
    yield paired_difference(final("switch", "tc-lstm-tmsgd-switch0-"), like_switch_0)


def test_every_interval_on_a_page_is_published_or_computed_from_published_runs() -> None:
    known = in_tables() | {(one.mean, one.low, one.high) for one in on_some_seeds()}
    printed = set(differences(PAGES.values()))
    assert len(printed) > 40
    assert [numbers for numbers in sorted(printed) if not any(is_rounded(numbers, exact) for exact in known)] == []


def tuned_auc(name: str) -> pd.Series:
    """The mean test AUC after each epoch of an optimizer's ten tests on click-through rate; the first is epoch 1."""
    runs = store.read_runs(ROOT / "results/tuned", f"ctr-wide_deep-{name}-").query("seed > 1999")
    curves = [history["auc"] for folder in runs["folder"] if (history := store.history(Path(folder))) is not None]
    assert len(curves) == 10
    return pd.concat(curves, axis=1).mean(axis=1).set_axis(range(1, 21))


def test_the_course_of_auc_on_the_tuned_page_is_that_of_the_published_runs() -> None:
    ours, sgd = tuned_auc("tmsgd"), tuned_auc("sgd")
    assert {round(ours[6], 3), round(ours[17], 3)} == {round(ours.max(), 3)}
    lines = [
        f"| {ours.max():.3f}, after epoch 6 and again after epoch 17 | {ours[15]:.3f} | {ours[20]:.3f} |",
        f"| {sgd.max():.3f}, after epoch {sgd.idxmax()} | {sgd[15]:.3f} | {sgd[20]:.3f} |",
    ]
    assert [line for line in lines if line not in PAGES["docs/tuned.md"]] == []


@pytest.mark.parametrize(
    ("printed", "agrees"),
    [
        (("+0.05", "+0.01", "+0.09"), True),
        (("−0.05", "−0.09", "−0.01"), True),
        (("+0.05", "+0.02", "+0.09"), False),
        (("−0.05", "−0.01", "−0.09"), False),
        (("+0.046", "+0.01", "+0.09"), True),
    ],
)
def test_a_printed_interval_agrees_if_it_is_rounded_or_turned_round(printed: tuple[str, ...], agrees: bool) -> None:
    assert is_rounded(printed, (0.0457, 0.0102, 0.0912)) == agrees
