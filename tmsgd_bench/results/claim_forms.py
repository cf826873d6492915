"""The claims as text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd

from tmsgd_bench import escaping
from tmsgd_bench.results.cells import comparison_record, difference, latex_tabular, markdown_row, signed, significance
from tmsgd_bench.results.claims import Claim, Verdicts, footnote
from tmsgd_bench.results.paper import Experiment

WIDTH = 110


class Cells(NamedTuple):
    """What is printed of a claim, as text, in the order of the columns.

    ``ours`` is our difference with its interval, or the evidence in words; ``printed`` is the paper's difference and
    whether ours agrees with it.
    """

    verdict: str
    statement: str
    subject: str
    place: str
    ours: str
    p: str
    p_holm: str
    detectable: str
    printed: str
    marks: str


HEADS = Cells(
    verdict="Verdict",
    statement="Claim",
    subject="On",
    place="Paper",
    ours="Ours, A − B",
    p="p",
    p_holm="p, Holm",
    detectable="Detectable",
    printed="Printed",
    marks="Marks",
)


def subject(experiment: Experiment | None) -> str:
    """Task and model in short."""
    return "" if experiment is None else f"{experiment.task.upper()} {experiment.label}"


def ours(claim: Claim) -> str:
    """Our difference with its interval, or the evidence in words."""
    if claim.comparison is None or claim.experiment is None:
        return claim.evidence
    return difference(claim.comparison.difference, claim.experiment.digits + 1)


def printed(claim: Claim) -> str:
    """The printed difference, and whether ours agrees with it."""
    if claim.printed is None or claim.experiment is None:
        return "–"
    text = f"{signed(claim.printed.value, claim.experiment.digits)} ± {claim.printed.tolerance:.2g}"
    agrees = {True: "; ours within", False: "; ours outside", None: ""}
    return text + agrees[claim.printed.inside]


def cells(claim: Claim) -> Cells:
    """The printed cells of a claim."""
    digits = claim.experiment.digits + 1 if claim.experiment else 0
    return Cells(
        claim.verdict,
        claim.statement,
        subject(claim.experiment),
        claim.place,
        ours(claim),
        *significance(claim.comparison, digits),
        printed(claim),
        "; ".join(claim.marks),
    )


def summary(verdicts: Verdicts) -> str:
    """How many claims have each verdict."""
    return ", ".join(f"{count} {verdict}" for verdict, count in verdicts.counts.items())


def to_text(verdicts: Verdicts) -> str:
    """For a terminal: what has been tested in full, then what has not in short."""
    tested = [claim for claim in verdicts.claims if claim.verdict != "not yet tested"]
    others = [claim for claim in verdicts.claims if claim.verdict == "not yet tested"]
    blocks = [f"{summary(verdicts)} ({verdicts.conditions})", *map(_block, tested)]
    if others:
        blocks.append("\n".join(["NOT YET TESTED", *_in_short(others)]))
    return "\n\n".join([*blocks, textwrap.fill(footnote(), WIDTH)]) + "\n"


def _block(claim: Claim) -> str:
    texts = cells(claim)
    about = f", {texts.subject}" if texts.subject else ""
    lines = [f"{texts.verdict.upper()}: {texts.statement}{about}", quotation(claim), texts.ours]
    if claim.comparison is not None:
        lines.append(f"p {texts.p}, after Holm {texts.p_holm} ({claim.comparison.family} tests)")
        lines.append(f"detectable {texts.detectable}; printed {texts.printed}")
    lines.append(texts.marks)
    return "\n".join(
        textwrap.fill(line, WIDTH, initial_indent="  " * bool(i), subsequent_indent="    ")
        for i, line in enumerate(lines)
        if line
    )


def _in_short(claims: Sequence[Claim]) -> list[str]:
    """One line for each statement, with all it is about."""
    about: dict[str, list[str]] = {}
    for claim in claims:
        tried = f" ({'; '.join(claim.marks)})" if claim.marks else ""
        about.setdefault(claim.statement, []).append((subject(claim.experiment) or claim.place) + tried)
    lines = [f"{statement}: {', '.join(where)}" for statement, where in about.items()]
    return [textwrap.fill(line, WIDTH, initial_indent="  ", subsequent_indent="    ") for line in lines]


def quotation(claim: Claim) -> str:
    """Where the paper says it, and its words."""
    says = f"“{claim.says}”" if claim.says else ""
    return f"{claim.place}: " + "; ".join(filter(None, (says, claim.note)))


def to_markdown(verdicts: Verdicts) -> str:
    """A table in GitHub's Markdown, with the rule."""
    title = f"**The paper's claims** — {verdicts.conditions}: {summary(verdicts)}"
    lines = map(markdown_row, (HEADS, ["---"] * len(HEADS), *map(_markdown, verdicts.claims)))
    return "\n".join([title, "", *lines, "", footnote()]) + "\n"


def _markdown(claim: Claim) -> Cells:
    """Marks and evidence in words are of any origin; the other cells are numbers and the paper's words."""
    texts = cells(claim)
    evidence = texts.ours if claim.comparison else escaping.markdown(texts.ours)
    return texts._replace(ours=evidence, marks=escaping.markdown(texts.marks))


def to_latex(verdicts: Verdicts) -> str:
    """A tabular (needs booktabs)."""
    lines = latex_tabular(HEADS, [cells(claim) for claim in verdicts.claims], "llllrrrrll")
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
    experiment, seen = claim.experiment, claim.printed
    return {
        "id": claim.id,
        "verdict": claim.verdict,
        "claim": claim.statement,
        "place": claim.place,
        "says": claim.says,
        "note": claim.note,
        **{key: getattr(experiment, key, None) for key in ("task", "model", "dataset", "metric", "unit", "direction")},
        "evidence": claim.evidence,
        **comparison_record(claim.comparison),
        "printed": None if seen is None else seen.value,
        "printed_tolerance": None if seen is None else seen.tolerance,
        "within_printed": None if seen is None else seen.inside,
        "marks": "; ".join(claim.marks),
        "parts": "; ".join(claim.parts),
        "runs": " ".join(claim.run_ids),
    }
