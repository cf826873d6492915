"""The report: one whole page that says what the runs say, labels what is no evidence, and can be read by anyone."""

from __future__ import annotations

import functools
import itertools
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tmsgd_bench import files, manifest, outputs
from tmsgd_bench.errors import StoreError
from tmsgd_bench.results import (
    answer,
    claim_forms,
    claims,
    differences,
    numerical,
    report,
    selection,
    store,
    table_forms,
    tables,
)
from tmsgd_bench.results.answer import Gain
from tmsgd_bench.results.paper import experiments, paper
from tmsgd_bench.results.report import content, figures, own
from tmsgd_bench.results.report.figures import Chart, Curve, Dots, Quantity
from tmsgd_bench.results.selection import BySwitch
from tmsgd_bench.results.statistics import Difference

WriteRun = Callable[..., Path]
NUMERICS = Path(__file__).resolve().parents[2] / "results" / "numerics"
PICTURE = b"\x89PNG\r\n\x1a\n a picture"
FINALS = {"sgd": [90.0, 91.0, 90.25], "tmsgd": [90.5, 92.25, 90.25], "sgdm": [91.0, 91.5]}
ACCURACY = Quantity("accuracy (%)")
SIGNS = {"supported": "✓", "contradicted": "✗", "no such difference": "=", "undecided": "?", "not yet tested": "–"}
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """What the tests ask of a page: elements with their attributes and text, and whether they are closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "svg"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        """What a reader sees, without the charts."""
        return " ".join(" ".join(self.words).split())

    def all(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag in tags]

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


def write_from_start(root: Path, write_run: WriteRun, seed: int, final: float) -> None:
    """TM-SGD as in the protocol, but with switch epoch 0."""
    write_run(root, "tmsgd", seed, final=final, protocols=[], options={"switch_epoch": 0})


def with_picture(folder: Path) -> None:
    (folder / "generated_images.png").write_bytes(PICTURE)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, write_run: WriteRun) -> Path:
    """A store with runs of every kind: counted, diverged, failed, abandoned, synthetic, partial, of no protocol."""
    root = tmp_path_factory.mktemp("report") / "store"
    for optimizer, finals in FINALS.items():
        for seed, final in enumerate(finals):
            pictured = optimizer == "sgd" and seed == 0
            write_run(root, optimizer, seed, final=final, **({"extra": with_picture} if pictured else {}))
    for seed in range(3):
        write_from_start(root, write_run, seed, 88.0 + seed)
    write_run(root, "adam", 0, status="diverged")
    write_run(root, "adam", 1, status="failed")
    write_run(root, "apollo", 0, status="abandoned")
    synthetic = {"data": {"kind": "synthetic", "limit": 500, "fingerprint": "s"}, "protocols": ["smoke"]}
    write_run(root, "sgd", 0, final=55.5, **synthetic)
    return root


@pytest.fixture(scope="module")
def written(root: Path, charts_drawn_once: None) -> Path:
    """The folder of its report, with the published numerical experiments in it."""
    return report.write(store.read_runs(root), NUMERICS, root.parent / "out").parent


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page((written / report.PAGE).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def runs_page(written: Path) -> Page:
    return Page((written / report.RUNS_PAGE).read_text(encoding="utf-8"))


# --- what it says --------------------------------------------------------------------------------------------------


def test_every_tested_claim_is_there_with_its_verdict_and_evidence(root: Path, page: Page) -> None:
    verdicts = claims.evaluate(store.read_runs(root), numerical.read_numerics(NUMERICS))
    tested = [claim for claim in verdicts.claims if claim.verdict != "not yet tested"]
    assert len(tested) >= 5
    for claim in tested:
        assert " ".join(claim.statement.split()) in page.text
        assert " ".join(claim_forms.ours(claim).split()) in page.text
    for level, counts in verdicts.counts.items():
        assert f"{level}: " + " ".join(f"{SIGNS[word]} {word} {count}" for word, count in counts.items()) in page.text


def test_the_first_screen_answers_at_each_level_with_its_seeds(root: Path, page: Page) -> None:
    """Before any table: the question, the answer for the paper, a picture, a sentence for each measured experiment."""
    first = page.text.partition("Verdicts All claims")[0]
    found = answer.findings(claims.evaluate(store.read_runs(root), numerical.read_numerics(NUMERICS)))
    assert found
    for one in found:
        assert f"{one.claim.verdict} : {one.subject} : {one.meaning}" in first
        assert f"(n={one.claim.comparison.difference.n}, " in one.words and one.claim.level in one.words
    assert "In 11 experiments, each at its highest level: " in first


def test_the_answer_counts_each_experiment_once(root: Path) -> None:
    verdicts = claims.evaluate(store.read_runs(root), numerical.read_numerics(NUMERICS))
    counts = [int(number) for number in re.findall(r"(\d+) (?!experiments)[a-z]", answer.sentence(verdicts))]
    assert sum(counts) == 11


def test_every_table_is_there_with_ours_beside_the_papers(root: Path, page: Page) -> None:
    runs = store.read_runs(root)
    for number in paper()["tables"]:
        table = tables.build(runs, number)
        assert table.heading in page.text
        for row in table.rows:
            for cell in table_forms.cells(row, table)[:-1]:
                assert cell in page.text


def test_what_is_no_evidence_is_labelled(page: Page, runs_page: Page) -> None:
    text = page.text
    assert "Not the paper's own setting: synthetic data, protocol smoke" in text
    assert "synthetic data partial data (500 training examples) few seeds (n=1)" in text
    assert "1 diverged 1 failed" in text
    assert "test accuracy (%) (synthetic data, partial data) after each epoch" in text
    assert "1 abandoned" in text
    assert text.count("few seeds (n=3)") >= 5
    assert "follows no protocol" in runs_page.text
    assert "ValueError: went wrong" in runs_page.text


def test_synthetic_numbers_stand_in_their_own_section(written: Path) -> None:
    html = (written / report.PAGE).read_text(encoding="utf-8")
    before, after = html.split('<section id="table-5-synthetic-smoke"')
    assert "55.5" not in before
    assert "55.50" in after


def test_every_number_leads_to_its_runs(root: Path, page: Page, runs_page: Page) -> None:
    """Each run behind a table's cell is linked, and the list has its commit, data and command."""
    links = {attributes["href"] for attributes in page.all("a")}
    listed = {attributes["href"] for attributes in runs_page.all("a")}
    for run_id in tables.build(store.read_runs(root), "5").run_ids:
        assert f"{report.RUNS_PAGE}#run-{run_id}" in links
        assert f"../store/{run_id}" in listed or f"../store/.work/{run_id}" in listed
    assert "0123abc" in runs_page.text
    assert "python run.py protocol=table2 task=tc model=lstm optimizer=tmsgd data=real seed=2" in runs_page.text


def test_a_phone_has_room_for_the_column_that_decides(root: Path, tmp_path: Path) -> None:
    """Columns that are needed least are marked for the style sheet, head and cells alike; the verdict never is."""
    section = next(section for section in content.sections(store.read_runs(root), tmp_path) if section.parts)
    dropped = [head for head, least in zip(section.columns, section.least, strict=True) if least]
    assert {"p", "Best epoch¹"} <= set(dropped) and not {section.columns[0], "Better than SGD?", "Paper"} & set(dropped)
    assert len(section.rows[0][1]) == len(section.least)


def test_charts_are_there_for_curves_differences_and_switch_epochs(page: Page) -> None:
    charts = {attributes["aria-labelledby"].split("-title")[0] for attributes in page.all("svg")}
    assert {f"table-5-0-{name}" for name in ("metric", "loss", "gap", "dots", "near", "switch-tmsgd")} <= charts
    assert {f"numerics-{name}" for name in report.NUMERICS} <= charts


def test_sample_pictures_are_inlined_with_their_run(page: Page) -> None:
    (picture,) = page.all("img")
    assert picture["src"].startswith("data:image/png;base64,")
    assert picture["alt"] == "SGD, seed 0: generated images"


def test_the_same_tables_are_there_as_files(root: Path, written: Path) -> None:
    runs = store.read_runs(root)
    expected = {f"table-{number}": tables.build(runs, number) for number in paper()["tables"]}
    expected["table-5-synthetic-smoke"] = tables.build(runs, "5", "synthetic", "smoke")
    verdicts = claims.evaluate(runs, numerical.read_numerics(NUMERICS))
    for suffix, render in table_forms.FORMATS.items():
        for name, table in expected.items():
            assert (written / f"{name}.{suffix}").read_text(encoding="utf-8") == render(table)
        assert (written / f"claims.{suffix}").read_text(encoding="utf-8") == claim_forms.FORMATS[suffix](verdicts)


# --- what is not in the paper --------------------------------------------------------------------------------------

BIRDS = {"name": "birds", "dataset": "birds"}


@pytest.fixture(scope="module")
def own_root(tmp_path_factory: pytest.TempPathFactory, write_run: WriteRun) -> Path:
    """A store with an own optimizer on a task of the paper, and an own task with SGD at two learning rates."""
    root = tmp_path_factory.mktemp("own") / "store"
    for seed in range(3):
        for optimizer, final in (("sgd", 90.0), ("tmsgd", 91.0), ("lion", 92.5)):
            write_run(root, optimizer, seed, final=final + seed)
            write_run(root, optimizer, seed, final=final - 50.0 + 0.25 * seed**2, task=BIRDS, protocols=["own"])
        write_run(root, "sgd", seed, final=30.0, task=BIRDS, protocols=[], options={"lr": 0.5})
    return root


@pytest.fixture(scope="module")
def own_page(own_root: Path) -> Page:
    path = report.write(store.read_runs(own_root), own_root / "none", own_root.parent / "out")
    return Page(path.read_text(encoding="utf-8"))


def drawn(page: Page) -> set[str]:
    return {attributes["aria-labelledby"].split("-title")[0] for attributes in page.all("svg")}


def test_an_own_optimizer_has_its_row_and_curve_beside_the_papers(own_root: Path, own_page: Page) -> None:
    table = tables.build(store.read_runs(own_root), "5")
    lion = table.rows[-1]
    assert (lion.optimizer, lion.label, lion.printed, lion.judgement) == ("lion", "Lion", None, None)
    assert lion.difference is not None and lion.difference.mean == pytest.approx(2.5)
    assert "Lion ends at 93.50 (n=3)" in own_page.text and "Lion − SGD is +2.5" in own_page.text


def test_an_own_task_has_its_table_charts_and_settings(own_root: Path, own_page: Page) -> None:
    (section,) = own.sections(store.read_runs(own_root), own_root)
    assert section.anchor in own_page.ids and f"#{section.anchor}" in {link["href"] for link in own_page.all("a")}
    for _, cells in section.rows:
        assert all(cell in own_page.text for cell in cells)
    charts = {f"{section.anchor}-{name}" for name in ("metric", "loss", "gap", "dots", "near")}
    assert charts <= drawn(own_page)
    assert dict(section.parts[0].settings)["task"] == "name birds, dataset birds"
    assert {f"{section.anchor}.{suffix}" for suffix in ("md", "csv")} <= {
        path.name for path in (own_root.parent / "out").iterdir()
    }


def test_the_charts_of_an_own_task_show_one_row_of_each_optimizer(own_root: Path, own_page: Page) -> None:
    (section,) = own.sections(store.read_runs(own_root), own_root)
    assert len(section.rows) == 4 and section.warning and section.warning in own_page.text
    (metric,) = (chart for chart in section.parts[0].charts if chart.name == f"{section.anchor}-metric")
    assert [row[0] for row in metric.rows[1:]] == ["SGD, lr 0.01", "Lion, lr 0.01", "TM-SGD, lr 0.01, switch 2"]


def test_an_own_task_without_sgd_is_shown_without_differences(tmp_path: Path, write_run: WriteRun) -> None:
    write_run(tmp_path / "store", "lion", 0, task={**BIRDS, "evaluate_on": "validation"}, protocols=[])
    runs = store.read_runs(tmp_path / "store")
    (section,) = own.sections(runs, tmp_path)
    assert section.conditions == "No row is of sgd: there are no differences"
    assert "validation accuracy (%)" in section.parts[0].charts[0].title
    assert report.write(runs, tmp_path / "none", tmp_path / "out").exists()


def test_another_model_of_a_papers_task_is_shown_too(tmp_path: Path, write_run: WriteRun) -> None:
    write_run(tmp_path, "sgd", 0, model={"name": "gru"}, protocols=["own"])
    write_run(tmp_path, "sgd", 0)
    (section,) = own.sections(store.read_runs(tmp_path), tmp_path)
    assert section.title.startswith("tc, gru")


def test_own_optimizers_differ_without_colour_and_take_free_ones() -> None:
    names = ["sgd", *(f"own{number}" for number in range(6))]
    looks = list(figures.looks(names).values())
    assert len({(str(look.dash), look.marker) for look in looks}) == len(looks)
    assert figures.LOOKS["sgd"].color not in {look.color for look in looks[1:6]}


# --- how it is made ------------------------------------------------------------------------------------------------


def test_a_page_needs_no_scripts_and_no_files(written: Path, page: Page, runs_page: Page) -> None:
    for name, one in ((report.PAGE, page), (report.RUNS_PAGE, runs_page)):
        html = (written / name).read_text(encoding="utf-8")
        assert html.startswith("<!DOCTYPE html>") and one.open == []
        assert not one.all("script", "link", "iframe", "object")
        assert all(attributes["src"].startswith("data:") for attributes in one.all("img"))
        assert not re.search(r"url\((?!#)", html) and "@import" not in html
        outside = {a["href"] for a in one.all("a") if "//" in a["href"]}
        assert outside <= {"https://arxiv.org/abs/2409.04707"}


def test_without_drawings_a_report_differs_in_nothing_else(written: Path, root: Path) -> None:
    """As verify makes it, which compares all but the drawings."""
    with differences.without_drawings():
        undrawn = report.write(store.read_runs(root), NUMERICS, written.with_name("undrawn")).parent
    drawn_page = (written / report.PAGE).read_text(encoding="utf-8")
    page = (undrawn / report.PAGE).read_text(encoding="utf-8")
    assert len(page) < len(drawn_page)
    assert differences.first_difference(report.PAGE, drawn_page, page) is None
    names = {path.name for path in written.iterdir()} - {report.PAGE, manifest.NAME}
    assert all((written / name).read_bytes() == (undrawn / name).read_bytes() for name in names)


def test_links_lead_somewhere(written: Path, page: Page, runs_page: Page) -> None:
    pages = {report.PAGE: page, report.RUNS_PAGE: runs_page}
    for name, one in pages.items():
        assert len(one.ids) == len(set(one.ids))
        for attributes in one.all("a", "use"):
            link = attributes.get("href") or attributes["xlink:href"]
            place, _, anchor = link.partition("#")
            if anchor:
                assert anchor in pages[place or name].ids, link
            elif "//" not in link:
                assert (written / link).exists(), link


def test_the_same_runs_give_the_same_bytes(tmp_path: Path, write_run: WriteRun) -> None:
    for seed, optimizer in itertools.product(range(2), ("sgd", "tmsgd")):
        write_run(tmp_path / "store", optimizer, seed, final=90.0 + seed)
    before = {}
    for _ in range(2):
        out = report.write(store.read_runs(tmp_path / "store"), tmp_path / "none", tmp_path / "out").parent
        files = {path.name: path.read_bytes() for path in out.iterdir()}
        assert before in ({}, files)
        before = files


def test_what_runs_say_is_text_and_not_markup(tmp_path: Path, write_run: WriteRun) -> None:
    folder = write_run(tmp_path / "store", status="failed", task={"name": "tc", "x": "<b>"}, model={"name": "lstm"})
    (folder / store.FAILURE).write_text('{"note": "<script>alert(1)</script> & \\"x\\"", "error": ""}')
    path = report.write(store.read_runs(tmp_path / "store"), tmp_path / "none", tmp_path / "out")
    html = path.with_name(report.RUNS_PAGE).read_text(encoding="utf-8")
    assert "<script" not in html + path.read_text(encoding="utf-8")
    assert '<script>alert(1)</script> & "x"' in Page(html).text


def test_a_store_without_runs_says_so(tmp_path: Path) -> None:
    path = report.write(store.read_runs(tmp_path), tmp_path / "none", tmp_path / "out")
    page = Page(path.read_text(encoding="utf-8"))
    assert "There are no runs here." in page.text
    assert "90.6" in page.text  # the paper's numbers are there all the same
    assert page.all("svg") == []


@pytest.mark.parametrize("name", [store.CONFIG, store.ENVIRONMENT, store.HISTORY])
def test_a_damaged_run_is_in_it_and_in_no_number(tmp_path: Path, write_run: WriteRun, name: str) -> None:
    folder = write_run(tmp_path / "store", final=66.625)
    (folder / name).unlink()
    path = report.write(store.read_runs(tmp_path / "store"), tmp_path / "none", tmp_path / "out")
    page = Page(path.read_text(encoding="utf-8"))
    listed = Page(path.with_name(report.RUNS_PAGE).read_text(encoding="utf-8"))
    left_out = f"1 damaged run left out: {folder.name} ({name} is missing)"
    assert page.text.count(left_out) >= 2 and "66.6" not in page.text + listed.text
    assert left_out in (path.parent / "table-5.md").read_text(encoding="utf-8")
    assert left_out in (path.parent / "claims.csv").read_text(encoding="utf-8")


def test_a_damaged_picture_is_named_and_left_out(
    tmp_path: Path, write_run: WriteRun, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_run(tmp_path, extra=with_picture)
    (folder / "generated_images.png").write_bytes(PICTURE[:-1])
    assert list(content._images(store.read_runs(tmp_path), tmp_path)) == []
    assert "generated_images.png differs from its checksum" in caplog.text


def test_a_folder_of_another_command_is_refused(root: Path, tmp_path: Path) -> None:
    outputs.renew(tmp_path / "table5", lambda place: files.write_texts(place, {"table5.md": "a table"}))
    with pytest.raises(StoreError, match=r"table5 holds what another command wrote, table5\.md for one"):
        report.write(store.read_runs(root), tmp_path / "none", tmp_path / "table5")
    assert not (tmp_path / "table5/index.html").exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="another folder"):
        report.write(store.read_runs(tmp_path / "none"), tmp_path / "none", tmp_path / "file")


# --- for every reader ----------------------------------------------------------------------------------------------


@pytest.fixture(params=[report.PAGE, report.RUNS_PAGE])
def any_page(request: pytest.FixtureRequest, page: Page, runs_page: Page) -> Page:
    return page if request.param == report.PAGE else runs_page


def test_the_keyboard_and_screen_readers_get_everywhere(any_page: Page) -> None:
    page = any_page
    assert page.all("html")[0]["lang"] == "en"
    assert page.all("a")[0]["href"] == "#content" and "content" in page.ids
    assert len(page.all("main")) == len(page.all("h1")) == 1
    for region in [attributes for _, attributes in page.elements if attributes.get("class") == "scroll"]:
        assert (region["tabindex"], region["role"]) == ("0", "region") and region["aria-label"]
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.all("th"))
    assert all(attributes["alt"] for attributes in page.all("img"))
    assert len(page.all("svg")) == len(page.all("desc")) == len(page.all("title")) - 1  # and the page's own


def test_headings_leave_out_no_level(any_page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in any_page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2)."""
    channels = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_stand_out_from_the_page_in_both_schemes(written: Path, scheme: int) -> None:
    """Contrast of at least 4.5 for text, and of 3 for what is drawn (WCAG 2, AA)."""
    html = (written / report.PAGE).read_text(encoding="utf-8")
    block = re.findall(r":root \{(.*?)\}", html, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", block))
    paper_light = luminance(colours["paper"])
    for name, colour in colours.items():
        high, low = sorted((luminance(colour), paper_light), reverse=True)
        contrast = (high + 0.05) / (low + 0.05)
        if name.startswith("series"):
            assert contrast >= 3.0, name
        elif name in ("ink", "muted", "link", "good", "bad", "open"):
            assert contrast >= 4.5, name


def test_optimizers_differ_without_colour() -> None:
    looks = list(figures.LOOKS.values())
    assert len({str(look.dash) for look in looks}) == len({look.marker for look in looks}) == len(looks)
    assert set(figures.LOOKS) == {name for one in experiments("5") for name in one.labels}


# --- charts --------------------------------------------------------------------------------------------------------


def curve(optimizer: str, label: str, *columns: list[float], diverged: tuple[list[float], ...] = ()) -> Curve:
    frames = (pd.DataFrame(dict(enumerate(map(pd.Series, one)))) for one in (columns, diverged))
    return Curve(optimizer, label, *frames, figures.LOOKS[optimizer])


@functools.cache
def charts() -> dict[str, Chart]:
    sgd = curve("sgd", "SGD", [50.0, 60.0, 70.0], [52.0, 62.0, 74.0])
    tmsgd = curve("tmsgd", "TM-SGD", [50.0, 61.0, 75.0], [52.0, 64.0, 75.0])
    adam = curve("adam", "Adam", diverged=([40.0, 10.0], [30.0]))
    row = Dots("tmsgd", "TM-SGD", [0.5, 1.5], Difference(1.0, 0.5, 1.5, 2), 0.3, figures.LOOKS["tmsgd"])
    finals = pd.DataFrame({0: [80.0, 90.0], 1: [82.0, np.nan]}, index=pd.Index([0.0, 2.0]))
    labels = {"tmsgd": "TM-SGD", "sgd": "SGD"}
    return {
        "learning": figures.learning("a", [sgd, tmsgd, adam], ACCURACY, 1.0, logarithmic=False),
        "logarithmic": figures.learning("b", [sgd], Quantity("loss", "synthetic data"), None, logarithmic=True),
        "gap": figures.gap("c", {"TM-SGD − SGD": (tmsgd, tmsgd.done - sgd.done)}, ACCURACY, 1.0),
        "gains": figures.gains(
            "g",
            [Gain("tc LSTM, full", 0.5, 0.2, 0.8, 12, 0.3), Gain("ic", -9.0, math.nan, math.nan, 1, None)],
        ),
        "dots": figures.dots("d", [row], "SGD", ACCURACY, "Differences <to> SGD & others"),
        "switch": figures.switch_curve(
            "e", BySwitch(finals, pd.Series([0, 1], finals.index)), pd.Series([85.0, 86.0]), ACCURACY, labels
        ),
        "diverged level": figures.switch_curve(
            "f", BySwitch(finals, pd.Series([0, 1], finals.index)), pd.Series([85.0, np.nan]), ACCURACY, labels
        ),
    }


@pytest.mark.parametrize("name", charts())
def test_a_chart_is_a_named_picture_with_text_in_the_pages_colours(name: str) -> None:
    chart = charts()[name]
    svg = ElementTree.fromstring(chart.svg)
    space = "{http://www.w3.org/2000/svg}"
    assert (svg.get("role"), svg.get("width"), svg.get("height")) == ("img", None, None)
    titles = {element.get("id"): element.text for element in svg if element.tag in (f"{space}title", f"{space}desc")}
    assert [titles[key] for key in (svg.get("aria-labelledby") or "").split()] == [chart.title, chart.text]
    assert list(svg.iter(f"{space}text"))
    assert set(re.findall(r"#[0-9a-f]{6}\b", chart.svg)) == set()
    assert not any(word in chart.svg for word in ("<metadata", "<!DOCTYPE", "<?xml"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("learning", ["SGD ends at 72.00 (n=2)", "2 of Adam diverged", "switch is at epoch 1", "few seeds (n=2)"]),
        ("gap", ["TM-SGD − SGD ends at +3 ± 2.8 (n=2)"]),
        ("gains", ["tc LSTM, full +0.5 [+0.2, +0.8] %, printed +0.3 %", "ic −9 %", "few seeds (n=1)"]),
        ("dots", ["TM-SGD − SGD is +1, interval +0.5 to +1.5, the paper prints +0.3"]),
        ("diverged level", ["SGD: 1 of 2 diverged"]),
        ("switch", ["81.00 (n=2) with switch epoch 0", "– (n=1, 1 diverged) with switch epoch 2", "SGD 85.50 (n=2)"]),
    ],
)
def test_a_charts_words_say_what_it_shows(name: str, words: list[str]) -> None:
    for word in words:
        assert word in charts()[name].text


def test_the_picture_itself_says_that_its_data_are_synthetic() -> None:
    texts = [element.text for element in ElementTree.fromstring(charts()["logarithmic"].svg).iter() if element.text]
    assert any(
        "synthetic data" in text
        for text in texts
        if text not in (charts()["logarithmic"].title, charts()["logarithmic"].text)
    )


def test_the_numbers_of_a_curve_are_its_means() -> None:
    chart = charts()["learning"]
    assert chart.rows[0] == ("mean after epoch", "0", "1", "2")
    assert chart.rows[1:] == (("SGD", "51.00", "61.00", "72.00"), ("TM-SGD", "51.00", "62.50", "75.00"))


# --- what is gathered ----------------------------------------------------------------------------------------------


def test_a_protocol_with_the_same_runs_is_not_shown_twice(tmp_path: Path, write_run: WriteRun) -> None:
    for seed in range(2):
        write_run(tmp_path, "sgd", seed, protocols=["table2", "corrected"])
    found = content.sections(store.read_runs(tmp_path), tmp_path)
    assert [section.anchor for section in found if section.parts] == ["table-5"]
    write_run(tmp_path, "sgd", 5, protocols=["corrected"])
    found = content.sections(store.read_runs(tmp_path), tmp_path)
    assert [section.anchor for section in found if section.parts] == ["table-5", "table-5-real-corrected"]


def test_reduced_runs_have_a_section_of_their_own(tmp_path: Path, write_run: WriteRun) -> None:
    """Learning rates may differ in it, and the command of a run on unverified data says so."""
    of_protocol = {"protocols": ["reduced"], "ran": {"verified_data": False}}
    for seed in range(2):
        write_run(tmp_path, "sgd", seed, **of_protocol)
        write_run(tmp_path, "adam", seed, options={"lr": 0.5}, **of_protocol)
    runs = store.read_runs(tmp_path)
    (section,) = (section for section in content.sections(runs, tmp_path) if section.parts)
    assert section.anchor == "table-5-real-reduced" and not section.official
    assert "protocol reduced" in section.table.conditions
    (adam,) = (row for row in section.table.rows if row.optimizer == "adam")
    assert adam.difference is not None and adam.difference.n == 2 and "unverified data" in adam.marks
    commands = [entry.command for entry in content.evidence(runs, tmp_path)[1]]
    assert all("protocol=reduced" in command and "data.verify=false" in command for command in commands)


def test_runs_that_start_from_the_weights_of_a_file_say_which(tmp_path: Path, write_run: WriteRun) -> None:
    file = {"name": "lstm", "weights": f"sha256:{'0123abcd' * 8}"}
    write_run(tmp_path, "sgd", 0, protocols=["reduced"], model=file)
    runs = store.read_runs(tmp_path)
    (section,) = (section for section in content.sections(runs, tmp_path) if section.parts)
    (sgd,) = (row for row in section.table.rows if row.optimizer == "sgd")
    assert "starts from the weights of a file (SHA-256 0123abcd…)" in sgd.marks
    ((_, (entry,)),) = [content.evidence(runs, tmp_path)]
    assert "model.weights=PATH" in entry.command


def test_the_switch_curve_has_the_runs_that_differ_in_the_switch_epoch_alone(root: Path) -> None:
    runs = store.read_runs(root)
    (experiment,) = experiments("5")
    chosen = selection.select(runs, experiment, "real", "table2")
    swept = selection.sweep(runs, chosen, "tmsgd")
    assert sorted(swept["switch_epoch"]) == [0, 0, 0, 2, 2, 2]
    assert selection.sweep(runs, chosen, "tmsgdm").empty


def test_runs_of_one_environment_share_its_name(root: Path) -> None:
    environments, evidence = content.evidence(store.read_runs(root), root)
    assert [one.name for one in environments] == ["E1"]
    assert {one.environment for one in evidence} == {"E1"}
    assert len(evidence) == len(store.read_runs(root))


def test_large_pictures_are_linked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "IMAGE_BYTES", 4)
    runs = store.read_runs(root)
    pictured = runs["folder"].map(lambda folder: (Path(folder) / "generated_images.png").exists())
    (image,) = content._images(runs[pictured].iloc[:1], root.parent / "out")
    assert not image.inlined
    assert (root.parent / "out" / image.source).resolve().read_bytes() == PICTURE
