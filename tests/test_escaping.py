"""Nasty labels of a store that is somebody else's, through every command and every form of output."""

from __future__ import annotations

import csv
import io
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tmsgd_bench import cli, escaping, files
from tmsgd_bench.results import figure_switch, store

Capture = pytest.CaptureFixture[str]
WriteRun = Callable[..., Path]
NASTY = {
    "pipe": "a|b || c\\|d",
    "lines": "a\nb\r\nc\td\x0be\u2028f",
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)> &lt;b&gt; \"'",
    "markdown": "[click](javascript:alert(1)) **bold** `code` _it_ ~~no~~ ![x](y)",
    "formula": '=HYPERLINK("http://example.org","x")',
    "plus": "+1+cmd|' /C calc'!A0",
    "minus": "-2+3",
    "at": "@SUM(1)",
    "tab": "\t=1+1",
    "terminal": "\x1b[31mred\x1b]0;title\x07\x9b2J\x7f\b",
    "bidi": "abc\u202efed\u2066x\ufeff",
    "latex": r"\input{/etc/passwd} $x^2$ %c #1 & ~ _ ^ {",
    "mathtext": r"$\frac{$",
    "dollars": "$a$ and $b",
    "underscore": "_hidden",
}
OPTIMIZERS = ("sgd", "tmsgd", "sgdm", "tmsgdm", "adam")
STORES = pytest.mark.parametrize("labels", [list(NASTY.values())[start::3] for start in range(3)], ids=("1", "2", "3"))


def shows(text: str) -> bool:
    """Whether a text has no characters that steer a terminal or reverse its lines."""
    return not any(unicodedata.category(letter)[0] == "C" for letter in text.replace("\n", ""))


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def check_csv(text: str) -> None:
    assert shows(text)
    rows = list(csv.reader(io.StringIO(text)))
    assert len({len(row) for row in rows}) == 1
    assert not [cell for row in rows for cell in row if cell.startswith(escaping.FORMULA) and not is_number(cell)]


def check_markdown(text: str) -> None:
    assert shows(text)
    bare = re.sub(r"\\[\\`*|~\[\]_]", "", text)
    assert not re.search(r"</?\w", bare) and "](" not in bare and "`" not in bare
    rows = [line for line in bare.splitlines() if line.startswith("|")]
    assert rows and len({row.count("|") for row in rows}) == 1


def check_latex(text: str) -> None:
    assert shows(text)
    commands = set(re.findall(r"\\([a-zA-Z]+)", text))
    known = {"begin", "end", "toprule", "midrule", "bottomrule", "pm", "times", "dots", "alpha"}
    assert commands <= known | {"textbackslash", "textasciitilde", "textasciicircum"}
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert all("%" not in line.replace(r"\%", "") for line in body)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Tags(HTMLParser):
    """The tags, and what can run or lead somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs


def check_html(text: str) -> None:
    assert shows(text)
    page = Tags()
    page.feed(text)
    assert not page.tags & {"script", "b", "iframe"}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not [value for name, value in page.attributes if name in ("href", "src") and "javascript:" in str(value)]


CHECKS = {".csv": check_csv, ".md": check_markdown, ".tex": check_latex, ".html": check_html}


@pytest.fixture
def results(tmp_path: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch, labels: list[str]) -> Path:
    """Runs whose labels are nasty, as are the fingerprints of their data, and the notes of failed ones."""
    root = tmp_path / "runs"
    known: dict[str, str] = write_run.__globals__["LABELS"]  # type: ignore[attr-defined]
    for name, label in zip(OPTIMIZERS, labels, strict=True):
        monkeypatch.setitem(known, name, label)
        data = {"kind": "real", "limit": None, "fingerprint": labels[0]}
        for seed in range(2):
            write_run(root, name, seed, final=90.0 + seed, data=data)
        failed = write_run(root, name, 7, status="failed", data=data)
        files.write_json(failed / store.FAILURE, {"note": label, "error": f"Traceback\n{label}\n"})
    return root


@STORES
def test_what_commands_print_is_harmless(capsys: Capture, results: Path, tmp_path: Path) -> None:
    own = ["--results", str(results)]
    for command, check in (
        (["runs"], None),
        (["show", "tc-lstm-adam-seed7"], None),
        (["show", "tc-lstm-sgd-seed0"], None),
        (["runs", "--format", "csv"], check_csv),
        (["compare"], check_markdown),
        (["compare", "--format", "csv"], check_csv),
        (["table", "5"], check_markdown),
        (["claims", "--numerics", str(tmp_path)], None),
    ):
        assert cli.main([*command, *own]) == 0
        out = capsys.readouterr().out
        assert shows(out.replace("\t", ""))
        if check is not None:
            check(out)


@STORES
def test_what_a_terminal_draws_is_harmless(monkeypatch: pytest.MonkeyPatch, results: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for columns in ("40", "250"):
        monkeypatch.setenv("COLUMNS", columns)
        for command in (["runs"], ["compare"], ["table", "5"], ["claims", "--numerics", str(tmp_path)]):
            terminal = Terminal()
            with monkeypatch.context() as patch:
                patch.setattr(sys, "stdout", terminal)
                assert cli.main([*command, "--results", str(results)]) == 0
            assert shows(re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()))


def written(results: Path, out: Path) -> Iterator[Path]:
    own = ["--results", str(results)]
    assert cli.main(["table", "5", "--out", str(out / "table"), *own]) == 0
    for numerics in (["claims", "--out", str(out / "claims")], ["report", "--out", str(out / "report")]):
        assert cli.main([*numerics, "--numerics", str(out / "claims"), *own]) == 0
    assert cli.main(["export", str(out / "runs.csv"), *own]) == 0
    assert cli.main(["export", str(out / "epochs.csv"), "--history", *own]) == 0
    for suffix in CHECKS:
        yield from (path for path in out.rglob(f"*{suffix}") if "runs" not in path.parent.parts)


@STORES
def test_what_commands_write_is_harmless(results: Path, tmp_path: Path) -> None:
    """Figures of a page are drawn with these labels, too."""
    (tmp_path / "out" / "claims").mkdir(parents=True)
    paths = list(written(results, tmp_path / "out"))
    assert {path.suffix for path in paths} == set(CHECKS)
    for path in paths:
        CHECKS[path.suffix](path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["mathtext", "dollars", "underscore", "terminal"])
def test_a_picture_is_drawn_with_any_label(
    tmp_path: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    known: dict[str, str] = write_run.__globals__["LABELS"]  # type: ignore[attr-defined]
    monkeypatch.setitem(known, "tmsgd", NASTY[name])
    runs = store.read_runs(write_run(tmp_path, "tmsgd", 0).parent)
    twice = pd.concat([runs, runs.assign(switch_epoch=0, run_id="other")], ignore_index=True)
    figure = figure_switch.draw(twice, twice.iloc[:0])
    figure.canvas.draw()
    shown = [text.get_text().replace("\\$", "$") for text in figure.axes[0].get_legend().get_texts()]
    assert shown[0].strip() == escaping.plain(NASTY[name]) + ", mean ± standard deviation"


@pytest.mark.parametrize("label", [*NASTY.values(), "half \ud800 of a pair"], ids=[*NASTY, "surrogate"])
def test_labels_are_still_told_apart(label: str) -> None:
    """Escaping is not deleting: LaTeX's and Markdown's forms lead back to the visible text."""
    shown = escaping.plain(label)
    assert len(shown) == len(label)
    again = re.sub(r"\\([\\`*|~$\[\]_])", r"\1", escaping.markdown(label))
    assert again.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == shown
    assert escaping.csv_cell(label).removeprefix("'") == shown


def test_numbers_and_plain_words_stay_as_they_are() -> None:
    frame = pd.DataFrame({"n": [-1, 2], "x": [-0.5, np.nan], "text": ["TM-SGD", None], "mixed": [-3, "max_tokens=2"]})
    assert escaping.csv(frame) == frame.to_csv(index=False)
    for text in ("TM-SGD, switch 5", "max_tokens=2 #1a2b", "95 % “few seeds (n=3)”"):
        assert escaping.plain(text) == escaping.markdown(text) == escaping.csv_cell(text) == text


def test_heads_of_columns_are_escaped() -> None:
    check_csv(escaping.csv(pd.DataFrame({"=1+1": [1], "a\x1b": ["@x"]})))
