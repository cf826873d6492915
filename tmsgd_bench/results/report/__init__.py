"""The report: an HTML page with everything inlined, another that lists the runs, and all tables in other forms.

The same runs give the same bytes: nothing in it is dated but by the runs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context

from tmsgd_bench import __version__, escaping, files, manifest, outputs
from tmsgd_bench.errors import StoreError
from tmsgd_bench.results import answer, cells, claim_forms, claims, numerical, table_forms
from tmsgd_bench.results.claims import Claim, Verdicts
from tmsgd_bench.results.report import content, figures, own
from tmsgd_bench.results.report.figures import Chart
from tmsgd_bench.version import BENCHMARK_VERSION

log = logging.getLogger(__name__)

PAGE = "index.html"
RUNS_PAGE = "runs.html"
"""The list of all runs is as large as the report, and read less often."""
AnySection = content.Section | own.OwnSection
FORMATS = {"md": "Markdown", "csv": "CSV", "tex": "LaTeX"}
"""What a table's files are, by suffix."""
NUMERICS = {
    "order": "Error at the end time against the step size: the order of each method",
    "regions": "Stability regions in the plane of learning rate × curvature",
    "early": "Loss and largest learning rate × curvature along the way, from the start and after a switch",
    "frequency": "Gain and phase from the gradient to the displacement",
    "limits": "Largest stable learning rate × curvature: theory (lines) and the optimizer (markers)",
    "noise": "Stationary variance under gradient noise: theory (lines) and measured (markers)",
}


def write(runs: pd.DataFrame, numerics: Path, folder: Path) -> Path:
    """Write the pages and their tables into a folder, and return the first page's path.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        numerics: what ``python -m tmsgd_bench numerics`` wrote; need not be there.
        folder: made if missing. Links in the pages are relative to it.

    Raises:
        StoreError: the folder cannot be written or holds other files of these names, a run's file cannot be read, or a
            run reports another metric than the paper's.
    """
    _check_target(folder)
    verdicts = claims.evaluate(runs, numerical.read_numerics(numerics))
    sections, own_sections = content.sections(runs, folder), own.sections(runs, folder)
    pages = render(runs, verdicts, sections, numerics, folder, own_sections)
    texts = {**pages, **_tables(verdicts, [*sections, *own_sections])}
    outputs.renew(folder, lambda place: files.write_texts(place, texts), replaced=_is_ours)
    return folder / PAGE


def _check_target(folder: Path) -> None:
    """Raise StoreError if the files of another command are in a folder, say a published table."""
    if foreign := [name for name in manifest.read(folder) or {} if not _is_ours(name)]:
        raise StoreError(f"{folder} holds what another command wrote, {foreign[0]} for one: choose another folder.")


def _is_ours(name: str) -> bool:
    """Whether a file is of a report: of a section that this one lacks, say."""
    return name in (PAGE, RUNS_PAGE) or name.startswith(("claims.", "table-", "own-"))


def _tables(verdicts: Verdicts, sections: Sequence[AnySection]) -> dict[str, str]:
    """Every table of the page by file name, in every format."""
    texts = {f"claims.{suffix}": claim_forms.FORMATS[suffix](verdicts) for suffix in table_forms.FORMATS}
    for section in sections:
        texts |= {f"{section.anchor}.{suffix}": section.in_form(suffix) for suffix in section.suffixes}
    return texts


def render(
    runs: pd.DataFrame,
    verdicts: Verdicts,
    sections: list[content.Section],
    numerics: Path,
    folder: Path,
    own_sections: Sequence[own.OwnSection] = (),
) -> dict[str, str]:
    """The report's pages by file name.

    Args:
        runs: all runs to be listed.
        verdicts, sections, own_sections: what they come to.
        numerics: folder of the numerical experiments.
        folder: where the pages are to lie, for links.
    """
    environments, evidence = content.evidence(runs, folder)
    templates = _templates()
    shared = {
        "style": Markup(templates.get_template("style.css.jinja").render()),
        "evidence": evidence,
        "statuses": runs["status"].value_counts().to_dict(),
        "report_page": PAGE,
        "runs_page": RUNS_PAGE,
    }
    findings = answer.findings(verdicts)
    rows = answer.measured_gains(findings)
    first = templates.get_template("page.html.jinja").render(
        shared,
        verdicts=verdicts,
        answer=answer.sentence(verdicts),
        findings=findings,
        gains=figures.gains("gains", rows) if rows else None,
        tested=[claim for claim in verdicts.claims if claim.verdict != "not yet tested"],
        untested=_grouped(verdicts),
        sections=sections,
        own_sections=own_sections,
        formats=FORMATS,
        numerics=list(_numerics_charts(numerics)),
        numerics_link=content.relative(numerics, folder),
        claim_forms=claim_forms,
        footnotes={"claims": claims.footnote(), "tables": cells.footnote()},
        version=__version__,
        benchmark_version=BENCHMARK_VERSION,
    )
    listed = templates.get_template("runs.html.jinja").render(shared, environments=environments)
    return {PAGE: first, RUNS_PAGE: listed}


def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("tmsgd_bench.results.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    templates.filters["svg"] = Markup
    return templates


def _visible(value: Any) -> Any:
    """Texts of runs lose their control characters; what is markup already is this report's own."""
    return escaping.plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _grouped(verdicts: Verdicts) -> Mapping[str, list[Claim]]:
    """What is not yet tested, by statement."""
    by_statement: dict[str, list[Claim]] = {}
    for claim in verdicts.claims:
        if claim.verdict == "not yet tested":
            by_statement.setdefault(claim.statement, []).append(claim)
    return by_statement


def _numerics_tables(folder: Path, name: str) -> dict[str, Any]:
    """The tables behind a figure; none if one of them is damaged, which is said."""
    try:
        stems = sorted(path.stem for path in folder.glob(f"{name}*.csv"))
        return {stem: numerical.read_table(folder, stem) for stem in stems}
    except StoreError as error:
        log.warning("the figure %s is left out: %s: write it again with '%s'", name, error, numerical.COMMAND)
        return {}


def _numerics_charts(folder: Path) -> Iterator[Chart]:
    """The figures of the numerical experiments whose tables are there."""
    if not folder.is_dir():
        return
    for name in NUMERICS:
        tables = _numerics_tables(folder, name)
        if name in tables:
            yield _numerics_chart(name, tables)


def _numerics_chart(name: str, tables: dict[str, Any]) -> Chart:
    """A figure of the numerical experiments, drawn again from its tables so that it follows the page's scheme."""
    from tmsgd_bench.numerics import figures as drawn  # torch, which takes seconds

    variables = figures.VARIABLES | {
        drawn.LOOKS["taylor3"].color: "--series-2",
        drawn.LOOKS["nine_eighths"].color: "--series-3",
        drawn.START_LOOKS["TM-SGD after the switch"].color: "--series-3",
        drawn.MOMENTUM_LOOKS[0.3].color: "--series-4",
    }  # too dark for a dark page
    title, stems = NUMERICS[name], ", ".join(f"{stem}.csv" for stem in tables)
    text = f"{title}. The numbers are in {stems}."
    with rc_context(drawn.STYLE):
        figure = drawn.DRAW[name](tables)
        figure.patch.set_visible(False)
        svg = figures.inline(figure, f"numerics-{name}", title, text, drawn.STYLE, variables)
    return Chart(f"numerics-{name}", title, text, svg)
