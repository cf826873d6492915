"""What a terminal gets in place of plain lines: tables that fit, without colours where none are wanted."""

from __future__ import annotations

import fnmatch
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from tmsgd_bench import cli, drawing, files
from tmsgd_bench.results import claim_forms, comparison, store, table_forms, tables, tuned

WriteRun = Callable[..., Path]
Ask = Callable[..., str]
SEQUENCE = re.compile(r"\x1b\[[0-9;]*m")
NOTHING_HERE = "nothing-here"
TABLES = (["table", "5"], ["compare"], ["claims"])
COMMANDS = (*TABLES, ["runs"], ["data", "--root", NOTHING_HERE], ["data", "list", "r8", "--root", NOTHING_HERE])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def results(tmp_path: Path, write_run: WriteRun) -> Path:
    for seed in range(5):
        write_run(tmp_path, "sgd", seed, final=90.0 + seed / 10)
        write_run(tmp_path, "tmsgd", seed, final=91.0 + seed / 7)
    write_run(tmp_path, "adam", 0, final=80.0)
    failed = write_run(tmp_path, "apollo", 7, status="failed")
    files.write_json(failed / store.FAILURE, {"note": "no [red]memory[/red]", "error": "Traceback"})
    return tmp_path


@pytest.fixture
def ask(results: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """What a command prints on a terminal of so many columns."""

    def asked(*command: str, columns: int, out: type[io.StringIO] = Terminal, **environment: str) -> str:
        own = [] if command[0] == "data" else ["--results", str(results)]
        own += ["--numerics", str(results)] if command[0] == "claims" else []
        with monkeypatch.context() as patch:
            for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
                patch.delenv(name, raising=False)
            for name, value in {"TERM": "xterm", "COLUMNS": str(columns), **environment}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdout", out())
            assert cli.main([*command, *own]) == 0
            return sys.stdout.getvalue()  # type: ignore[attr-defined]

    return asked


def bare(text: str) -> str:
    """Without colours."""
    return SEQUENCE.sub("", text)


@pytest.mark.parametrize("columns", [5, 80, 200])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_nothing_drawn_is_wider_than_the_terminal(ask: Ask, command: list[str], columns: int) -> None:
    text = bare(ask(*command, columns=columns))
    drawn = text.partition(f"In {NOTHING_HERE}")[0] if command[0] == "data" else text
    assert drawn and "\x1b" not in text
    assert max(map(cell_len, drawn.splitlines())) <= columns


@pytest.mark.parametrize("command", [*TABLES, ["runs"]], ids=" ".join)
def test_a_form_that_is_named_is_the_same_on_a_terminal_as_in_a_file(ask: Ask, command: list[str]) -> None:
    named = [*command, "--format", "csv" if command == ["runs"] else "md"]
    assert ask(*named, columns=80) == ask(*named, columns=80, out=io.StringIO)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_file_gets_plain_lines_whatever_colours_are_forced(ask: Ask, command: list[str]) -> None:
    text = ask(*command, columns=40, out=io.StringIO, FORCE_COLOR="1")
    assert "\x1b" not in text and "─" not in text


def test_columns_are_left_out_by_name_and_what_decides_stays(ask: Ask) -> None:
    text = bare(ask("table", "5", columns=70))
    heads = text.partition("───")[0]
    assert all(head in heads for head in ("Optimizer", "Paper", "Ours", "Better", "paired"))
    assert "Best epoch¹" not in heads and "Detectable²" not in heads
    left_out = text.partition("Left out")[2].partition("--format md")[0]
    assert "Best epoch¹" in left_out and "Detectable²" in left_out
    assert "Left out" not in ask("table", "5", columns=300)


def test_a_terminal_too_narrow_for_a_table_gets_a_line_for_each_cell(ask: Ask) -> None:
    text = bare(ask("table", "5", columns=40))
    assert "───" not in text and "Optimizer: TM-SGD\n" in text and "Paper: 90.9\n" in text


def test_every_column_that_may_be_left_out_exists(results: Path) -> None:
    runs = store.read_runs(results)
    heads = [
        *table_forms.columns(tables.build(runs, "5")),
        table_forms.HEADS.p,
        "Ours − SGD, mean of the last 20 epochs",
    ]
    assert all(fnmatch.filter(heads, name) for name in table_forms.LEAST)
    assert set(comparison.LEAST) <= set(comparison.HEADS) and set(claim_forms.LEAST) <= set(claim_forms.HEADS)
    assert set(tuned.LEAST) <= {*tuned.ROW_HEADS, *tuned.ANSWER_HEADS}


def test_claims_without_runs_stand_in_a_list(ask: Ask) -> None:
    text = bare(ask("claims", columns=300))
    table, _, rest = text.partition("Not yet tested")
    assert "TM-SGD better than SGD" in " ".join(table.split()) and "not yet tested  " not in table
    assert "- TM-SGD better than Adam: " in rest


def test_runs_have_a_colour_for_their_status_and_no_markup_of_their_own(ask: Ask) -> None:
    text = ask("runs", columns=160)
    assert "\x1b[32mdone" in text and "\x1b[31mfailed" in text
    assert "no [red]memory[/red]" in text


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_no_colours_where_none_are_wanted(ask: Ask, environment: dict[str, str]) -> None:
    text = ask("runs", columns=160, **environment)
    colours = [code for code in re.findall(r"\x1b\[([0-9;]*)m", text) if re.search(r"\b3\d\b", code)]
    assert "───" in text and not colours


def test_a_terminal_that_knows_ascii_alone_gets_ascii(ask: Ask) -> None:
    class Ascii(Terminal):
        encoding = "ascii"

    text = ask("compare", columns=100, out=Ascii)
    assert "---" in text and "─" not in text


def test_data_sets_have_a_row_and_those_that_are_missing_a_command(ask: Ask) -> None:
    text = bare(ask("data", "--root", NOTHING_HERE, columns=160))
    row = next(line for line in text.splitlines() if line.startswith("r8 "))
    assert "missing" in row and "7,674" in row and "Reuters" in row
    assert f"\nr8: python -m tmsgd_bench data prepare r8 --root {NOTHING_HERE}\n" in text
    assert "\navazu: python -m tmsgd_bench data list avazu " in text  # it cannot be downloaded
    assert "sha" not in text and "https://" not in text


def test_a_data_set_that_is_named_is_described_in_full(ask: Ask) -> None:
    command = ("data", "list", "r8", "--root", NOTHING_HERE)
    text = ask(*command, columns=160)
    assert text.endswith(ask(*command, columns=160, out=io.StringIO))


def test_data_sets_that_are_altered_are_damaged(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "r8").mkdir()
    for name in ("train", "test"):
        files.write_text(tmp_path / "r8" / f"r8-{name}-all-terms.txt", "altered")
    text = ask("data", "list", "r8", "--root", str(tmp_path), columns=160)
    assert "\x1b[31mdamaged" in text


def test_markdown_is_read_with_its_escapes() -> None:
    heading, item, table, code = drawing.parse(
        "**A \\*b\\*** and\n[c](http://d)\n\n- e\n\n"
        "| F | `g` |\n|---|---|\n| a\\|b | &lt;**i** \\[red\\] |\n| | \x1b[31m |\n\n"
        "    j\n"
    )
    assert isinstance(table, drawing.Table) and isinstance(heading, Text)
    assert heading.plain == "A *b* and c" and heading.spans[0].style == "bold"
    assert (item.plain, code.plain.strip()) == ("- e", "j")  # type: ignore[union-attr]
    assert [cell.plain for cell in table.heads] == ["F", "g"]
    assert [[cell.plain for cell in row] for row in table.rows] == [["a|b", "<i [red]"], ["", "�[31m"]]


def test_no_word_number_or_interval_is_broken_where_all_have_room() -> None:
    row = ("TM-SGD", "+0.05 [+0.01, +0.09] (n=10, better in 7)", "unbreakable words here")
    made = drawing.table(("A", "B", "C"), [row], {})
    text = drawing.render([made], Console(width=42, file=io.StringIO()))
    assert all(whole in text for whole in ("[+0.01, +0.09]", "(n=10, better in 7)", "unbreakable"))
    assert "Left out" not in text


def test_columns_without_contents_go_first_and_the_first_column_never() -> None:
    made = drawing.table(("first", "second", "third"), [("–", "2" * 9, "–")], {})
    text = drawing.render([made], Console(width=18, file=io.StringIO()), ["first", "second"])
    assert text.splitlines()[0].split() == ["first", "second"] and "Left out for want" in text


def test_a_table_without_rows_is_drawn() -> None:
    assert "a" in drawing.render(drawing.parse("| a | b |\n|---|---|\n"), Console(width=20, file=io.StringIO()))
