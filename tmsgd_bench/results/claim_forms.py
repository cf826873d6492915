"""The claims as text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from tmsgd_bench import escaping
from tmsgd_bench.results.cells import (
    comparison_record,
    difference,
    interval_name,
    latex_tabular,
    markdown_row,
    p_value,
    printed_outside,
    signed,
    significance,
)
from tmsgd_bench.results.claims import Claim, Verdicts, footnote
from tmsgd_bench.results.paper import Experiment
from tmsgd_bench.results.verdicts import Verdict

WIDTH = 110
OF_LAST = ("difference", "low", "high", "pairs")
"""What the CSV form has of the means over the last epochs."""


class Cells(NamedTuple):
    """What is printed of a claim, as text, in the order of the columns.

    ``ours`` is our difference with its interval, or the evidence in words; ``printed`` is the paper's difference,
    ``outside`` whether it lies outside our interval, and ``last`` our difference of the means over the last epochs.
    """

    verdict: str
    level: str
    statement: str
    subject: str
    place: str
    ours: str
    p: str
    p_holm: str
    detectable: str
    printed: str
    outside: str
    last: str
    marks: str


HEADS = Cells(
    verdict="Verdict",
    level="Level",
    statement="Claim",
    subject="On",
    place="Paper",
    ours="Ours, A − B",
    p="p",
    p_holm="p, Holm",
    detectable="Detectable",
    printed="Printed",
    outside="Outside",
    last="Last epochs",
    marks="Marks",
)

LEAST = (HEADS.last, HEADS.detectable, HEADS.p, HEADS.outside, HEADS.p_holm, HEADS.level)
"""The columns that a narrow terminal may lack, the least needed first."""


def subject(experiment: Experiment | None) -> str:
    """Task and model in short."""
    return "" if experiment is None else f"{experiment.task.upper()} {experiment.label}"


def heads(verdicts: Verdicts) -> Cells:
    """The heads of the columns, with the kind of interval."""
    return HEADS._replace(ours=f"{HEADS.ours} [{interval_name(claim.comparison for claim in verdicts.claims)}]")


def ours(claim: Claim) -> str:
    """Our difference with its interval, or the evidence in words."""
    if claim.comparison is None or claim.experiment is None:
        return claim.evidence
    return difference(claim.comparison, claim.experiment.digits + 1, claim.experiment.direction)


def printed(claim: Claim) -> str:
    """The printed difference with its tolerance."""
    if claim.printed is None or claim.experiment is None:
        return "–"
    return f"{signed(claim.printed.value, claim.experiment.digits)} ± {claim.printed.tolerance:.2g}"


def last(claim: Claim) -> str:
    """Our difference of the means over the last epochs."""
    if claim.last is None or claim.experiment is None:
        return "–"
    text = difference(claim.last, claim.experiment.digits + 1, claim.experiment.direction)
    return f"{text}, mean of {claim.experiment.last_epochs}"


def cells(claim: Claim) -> Cells:
    """The printed cells of a claim."""
    digits = claim.experiment.digits + 1 if claim.experiment else 0
    return Cells(
        claim.judgement.text,
        claim.level,
        claim.statement,
        subject(claim.experiment),
        claim.place,
        ours(claim),
        *significance(claim.comparison, digits),
        printed(claim),
        printed_outside(claim.printed, claim.comparison),
        last(claim),
        "; ".join(claim.marks),
    )


def summary(verdicts: Verdicts) -> str:
    """How many claims have each verdict, by level."""
    return "; ".join(f"{level}: {tally(counts)}" for level, counts in verdicts.counts.items())


def tally(counts: Mapping[Verdict, int]) -> str:
    """How many claims of one level have each verdict."""
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def to_text(verdicts: Verdicts) -> str:
    """Lines to read: what has been tested in full, then what has not in short."""
    tested, others = _by_test(verdicts)
    counts = [f"{level}: {tally(of_level)}" for level, of_level in verdicts.counts.items()]
    blocks = ["\n".join([*counts, f"({verdicts.conditions})"]), *map(_block, tested)]
    if others:
        in_short = (
            textwrap.fill(line, WIDTH, initial_indent="  ", subsequent_indent="    ") for line in _in_short(others)
        )
        blocks.append("\n".join(["NOT YET TESTED", *in_short]))
    return "\n\n".join([*blocks, textwrap.fill(footnote(), WIDTH)]) + "\n"


def _by_test(verdicts: Verdicts) -> tuple[list[Claim], list[Claim]]:
    """The claims that have been tested, and the others."""
    sides: tuple[list[Claim], list[Claim]] = ([], [])
    for claim in verdicts.claims:
        sides[claim.verdict == "not yet tested"].append(claim)
    return sides


def _block(claim: Claim) -> str:
    texts = cells(claim)
    about = f", {texts.subject}" if texts.subject else ""
    word, rest = claim.verdict, texts.verdict.removeprefix(claim.verdict)
    lines = [f"{word.upper()}{rest}, {texts.level}: {texts.statement}{about}", quotation(claim), texts.ours]
    if claim.comparison is not None:
        lines += facts(claim)
    lines.append(texts.marks)
    return "\n".join(
        textwrap.fill(line, WIDTH, initial_indent="  " * bool(i), subsequent_indent="    ")
        for i, line in enumerate(lines)
        if line
    )


def facts(claim: Claim) -> list[str]:
    """What a compared claim's verdict rests on, besides the difference."""
    texts, family = cells(claim), claim.comparison.family if claim.comparison else 0
    lines = [f"p {texts.p}, after Holm {texts.p_holm} ({family} tests)", f"detectable {texts.detectable}"]
    if claim.experiment and not math.isnan(claim.judgement.margin):
        within = p_value(claim.judgement.p_equivalence)
        lines.append(f"margin ±{claim.judgement.margin:.2g}, p of the tests of equivalence {within}")
    if claim.printed:
        lines.append(f"printed {texts.printed}; outside our interval: {texts.outside}")
    return [*lines, f"last epochs {texts.last}"] if claim.last else lines


def _in_short(claims: Sequence[Claim]) -> list[str]:
    """One line for each statement, with all it is about."""
    about: dict[str, list[str]] = {}
    for claim in claims:
        tried = f" ({'; '.join(claim.marks)})" if claim.marks else ""
        about.setdefault(claim.statement, []).append((subject(claim.experiment) or claim.place) + tried)
    return [f"{statement}: {', '.join(where)}" for statement, where in about.items()]


def quotation(claim: Claim) -> str:
    """Where the paper says it, and its words."""
    says = f"“{claim.says}”" if claim.says else ""
    return f"{claim.place}: " + "; ".join(filter(None, (says, claim.note)))


def to_markdown(verdicts: Verdicts) -> str:
    """A table in GitHub's Markdown, with the rule."""
    return "\n".join([_title(verdicts), "", *_rows(verdicts, verdicts.claims), "", footnote()]) + "\n"


def to_drawn(verdicts: Verdicts) -> str:
    """The same for a terminal to draw: only what has been tested has a row, the rest is in a short list."""
    tested, others = _by_test(verdicts)
    blocks = [[_title(verdicts)]]
    if tested:
        blocks.append(_rows(verdicts, tested))
    if others:
        blocks += [["**Not yet tested**"], [f"- {escaping.markdown(line)}" for line in _in_short(others)]]
    return "\n\n".join("\n".join(block) for block in [*blocks, [footnote()]]) + "\n"


def _title(verdicts: Verdicts) -> str:
    return f"**The paper's claims** — {verdicts.conditions}: {summary(verdicts)}"


def _rows(verdicts: Verdicts, claims: Sequence[Claim]) -> list[str]:
    return [*map(markdown_row, (heads(verdicts), ["---"] * len(HEADS), *map(_markdown, claims)))]


def _markdown(claim: Claim) -> Cells:
    """Marks and evidence in words are of any origin; the other cells are numbers and the paper's words."""
    texts = cells(claim)
    evidence = texts.ours if claim.comparison else escaping.markdown(texts.ours)
    return texts._replace(ours=evidence, marks=escaping.markdown(texts.marks))


def to_latex(verdicts: Verdicts) -> str:
    """A tabular (needs booktabs)."""
    lines = latex_tabular(heads(verdicts), [cells(claim) for claim in verdicts.claims], "lllllrrrrllrl")
    head = escaping.plain(f"% Claims; {verdicts.conditions}: {summary(verdicts)}")
    return "\n".join([head, *lines, f"% {footnote()}"]) + "\n"


def to_csv(verdicts: Verdicts) -> str:
    """All numbers in full, one row a claim; runs are separated by spaces."""
    frame = pd.DataFrame([_record(claim) for claim in verdicts.claims])
    frame["conditions"] = verdicts.conditions
    return escaping.csv(frame)


FORMATS: dict[str, Callable[[Verdicts], str]] = {
    "text": to_text,
    "md": to_markdown,
    "csv": to_csv,
    "tex": to_latex,
}


def _record(claim: Claim) -> dict[str, object]:
    experiment, seen, judged = claim.experiment, claim.printed, claim.judgement
    last = {f"last_{key}": value for key, value in comparison_record(claim.last).items() if key in OF_LAST}
    return {
        "id": claim.id,
        "level": claim.level,
        "verdict": claim.verdict,
        "seeds_to_decide": judged.seeds,
        "claim": claim.statement,
        "place": claim.place,
        "says": claim.says,
        "note": claim.note,
        **{key: getattr(experiment, key, None) for key in ("task", "model", "dataset", "metric", "unit", "direction")},
        "evidence": claim.evidence,
        **comparison_record(claim.comparison),
        "margin": judged.margin,
        "p_equivalence": judged.p_equivalence,
        "printed": None if seen is None else seen.value,
        "printed_tolerance": None if seen is None else seen.tolerance,
        "printed_outside": None if seen is None else seen.outside,
        **last,
        "marks": "; ".join(claim.marks),
        "parts": "; ".join(claim.parts),
        "runs": " ".join(claim.run_ids),
    }
