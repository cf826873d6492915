"""The claims as text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

import pandas as pd

from tmsgd_bench import escaping
from tmsgd_bench.results.claims import Claim, Verdicts, footnote
from tmsgd_bench.results.paper import Experiment
from tmsgd_bench.results.tables import (
    comparison_record,
    difference,
    latex_tabular,
    markdown_words,
    p_value,
    signed,
    tests,
)

COLUMNS = ("Verdict", "Claim", "On", "Paper", "Ours, A − B", "p", "p, Holm", "Detectable", "Printed", "Marks")
WIDTH = 110


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


def cells(claim: Claim) -> list[str]:
    """The printed cells of a claim, in the order of COLUMNS."""
    digits = claim.experiment.digits + 1 if claim.experiment else 0
    return [
        claim.verdict,
        claim.statement,
        subject(claim.experiment),
        claim.place,
        ours(claim),
        *tests(claim.comparison, digits),
        printed(claim),
        "; ".join(claim.marks),
    ]


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
    about = subject(claim.experiment)
    lines = [
        f"{claim.verdict.upper()}: {claim.statement}{', ' + about if about else ''}",
        quotation(claim),
        ours(claim),
    ]
    if claim.comparison is not None:
        comparison = claim.comparison
        lines.append(f"p {p_value(comparison.p)}, after Holm {p_value(comparison.p_holm)} ({comparison.family} tests)")
        lines.append(f"detectable {cells(claim)[7]}; printed {printed(claim)}")
    lines.append("; ".join(claim.marks))
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
    filled = [_markdown_cells(claim) for claim in verdicts.claims]
    rows: Sequence[Sequence[str]] = [COLUMNS, ["---"] * len(COLUMNS), *filled]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return (
        "\n".join([f"**The paper's claims** — {verdicts.conditions}: {summary(verdicts)}", "", *lines, "", footnote()])
        + "\n"
    )


def _markdown_cells(claim: Claim) -> list[str]:
    texts = markdown_words(cells(claim))
    evidence = COLUMNS.index("Ours, A − B")
    if claim.comparison is None:  # then it is in words
        texts[evidence] = escaping.markdown(texts[evidence])
    return texts


def to_latex(verdicts: Verdicts) -> str:
    """A tabular (needs booktabs)."""
    lines = latex_tabular(COLUMNS, [cells(claim) for claim in verdicts.claims], "llllrrrrll")
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
