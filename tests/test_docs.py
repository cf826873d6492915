"""The documentation does what it says.

On every page Python runs and prints what its comments say, files to be saved can be used, commands on published runs
and on synthetic data run, the settings and options of all others are accepted, and links lead somewhere.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from torch.utils.data import DataLoader, TensorDataset

from tmsgd_bench import cli
from tmsgd_bench.engine import command_line, compose, sweep

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for pattern in ("README.md", "C*.md", "docs/**/*.md", "examples/README.md", "results/**/README.md")
    for path in sorted(ROOT.glob(pattern))
}

PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
YAML = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```sh\n(.*?)^```$|^((?: {4}[^\n]*\n)+)", re.MULTILINE | re.DOTALL)
SAVED = re.compile(r"Save as\s+`([^`]+)`[^\n]*\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(r"^print\(.*\)\s+# ([-\d. ]*\d)", re.MULTILINE)  # a comment that begins with numbers is a claim
INLINE = re.compile(r"`((?:python run\.py|make|pip install) [^`…]*)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
VARIABLE = re.compile(r"\w+=")
OF_THE_READER = ("results/runs", "results/mine")
"""Stores in examples, which the reader's own runs make."""


def command_lines(page: str) -> list[str]:
    """The commands of a page's shell blocks and of its sentences, in order, each on one line."""
    text = PAGES[page].replace("\\\n", " ")
    blocks = "\n".join(fenced or indented for fenced, indented in SHELL.findall(text))
    lines = [line for line in blocks.splitlines() if re.match(r" *(?:[A-Z_]+=\S+ )*(python|make|pip) ", line)]
    return [*lines, *INLINE.findall(text)]


def commands_of(page: str) -> list[list[str]]:
    """The arguments of a page's commands, without comments and variables."""
    commands = [shlex.split(line, comments=True) for line in command_lines(page)]
    return [list(itertools.dropwhile(VARIABLE.match, command)) for command in commands]


def commands(*start: str) -> list[Any]:
    """The arguments of all commands that start so, each once, with the page in the test's name."""
    pages = {
        tuple(command[len(start) :]): page
        for page in reversed(PAGES)
        for command in commands_of(page)
        if tuple(command[: len(start)]) == start
    }
    return [pytest.param(list(arguments), id=f"{page}: {' '.join(arguments)}") for arguments, page in pages.items()]


def blocks() -> list[Any]:
    codes = [(page, code) for page, text in PAGES.items() for code in PYTHON.findall(text)]
    return [pytest.param(code, id=f"{page}-{number}") for number, (page, code) in enumerate(codes)]


def surroundings() -> dict[str, Any]:
    """What the examples take for granted: a model, a loss, a loader."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 8)
    data = TensorDataset(inputs, (inputs.sum(dim=1, keepdim=True) > 0).float())
    return {
        "__name__": "example",
        "torch": torch,
        "model": torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)),
        "loss_function": torch.nn.BCEWithLogitsLoss(),
        "loader": DataLoader(data, batch_size=16),
    }


@pytest.mark.parametrize("code", blocks())
def test_an_example_runs_and_prints_what_its_comments_say(code: str) -> None:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "example", "exec"), surroundings())
    claimed = PRINTED.findall(code)
    if claimed:
        assert output.getvalue().splitlines() == [number.strip() for number in claimed]


def test_the_pages_with_examples_have_them() -> None:
    assert {"README.md", "docs/optimizer.md", "docs/package.md", "docs/extending.md", "docs/voc.md"} <= {
        page for page, text in PAGES.items() if PYTHON.search(text)
    }


def test_every_yaml_says_where_to_save_it() -> None:
    assert any(YAML.findall(text) for text in PAGES.values())
    for text in PAGES.values():
        assert set(YAML.findall(text)) <= {code for _, code in SAVED.findall(text)}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the published results, to be the current one; data sets are made within it."""
    (tmp_path / "results").mkdir()
    for folder in (ROOT / "results").iterdir():
        if folder.is_dir() and folder.name not in ("runs", "demo"):
            (tmp_path / "results" / folder.name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMSGD_DATA", str(tmp_path / "data"))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Call run.py's main in this process, for a moment's training in place of the smoke protocol's."""
    monkeypatch.syspath_prepend(str(ROOT))
    import run as module

    def call(arguments: list[str]) -> int:
        monkeypatch.setattr(sweep.SweepCallback, "folder", None)
        short = ["seed=0" if argument.startswith("seed=") else argument for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["run.py", *short, "epochs=1", "data.limit=20", "device=cpu", "progress=log"])
        return module.main()

    return call


@pytest.fixture
def new_modules() -> Iterator[None]:
    """Forget the modules that a test imports from its own folder."""
    before = set(sys.modules)
    yield
    for name in {name for name in sys.modules if name.startswith("my_")} - before:
        del sys.modules[name]


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if SAVED.search(text)])
def test_what_is_saved_can_be_trained(
    page: str, checkout: Path, run: Callable[..., int], new_modules: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, code in SAVED.findall(PAGES[page]):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(code, encoding="utf-8")
    for program, *arguments in (command[1:] for command in commands_of(page) if command[0] == "python"):
        if program == "run.py" and "protocol=smoke" in arguments:
            assert run(arguments) == 0, capsys.readouterr()
        elif program == "run.py":
            check_settings(["hydra.searchpath=[my]", *arguments])
        elif "my/runs" in arguments:
            assert cli.main(arguments[1:]) == 0, capsys.readouterr()


@pytest.mark.usefixtures("charts_drawn_once")
@pytest.mark.parametrize("arguments", commands("python", "-m", "tmsgd_bench"))
def test_a_command_runs_on_published_runs_and_all_others_are_accepted(
    arguments: list[str], checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["", *arguments[:-1]]
    inputs = [path for option, path in zip(options, arguments, strict=True) if option != "--out"]
    stores = [path for path in inputs if path.startswith(("results/", "my/"))]
    if stores and not any(path.startswith((*OF_THE_READER, "my/")) for path in stores):
        code, printed = cli.main(arguments), capsys.readouterr()
        assert code == 0 and printed.out, printed.err
        if arguments[0] == "table":
            assert printed.out == (ROOT / "results/table5/table5.md").read_text(encoding="utf-8")
    else:
        assert callable(cli._parser().parse_args(arguments).action)


def jobs(overrides: list[str]) -> Iterator[list[str]]:
    """Jobs of a sweep in which every value occurs, but of seeds and optimizers the first two."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    choices = [
        [f"{override.get_key_element()}={value}" for value in values_of(override)]
        if override.is_sweep_override()
        else [override.input_line or ""]
        for override in parsed
    ]
    choices = [values[:2] if re.match("seed=|optimizer=", values[0]) else values for values in choices]
    for number in range(max(map(len, choices))):
        yield [values[number % len(values)] for values in choices]


@pytest.mark.parametrize("arguments", commands("python", "run.py"))
def test_every_setting_of_a_run_is_accepted(arguments: list[str]) -> None:
    """Commands with a folder of the reader's own are left to the test that makes it."""
    if "--config-dir" not in arguments:
        optimizers = [argument[len("optimizer=") :] for argument in arguments if argument.startswith("optimizer=")]
        assert all((CONF / "optimizer" / f"{name}.yaml").exists() for names in optimizers for name in names.split(","))
        check_settings(arguments)


def values_of(override: Override) -> list[Any]:
    """The values of a sweep; of an interval, which a sweeper draws from, its ends."""
    interval = override.value()
    if isinstance(interval, IntervalSweep):
        return [interval.start, interval.end]
    return list(override.sweep_string_iterator())


def check_settings(arguments: list[str]) -> None:
    """Compose the jobs of a command, and check them as a run does before it loads data."""
    overrides = [argument for argument in arguments if "=" in argument]
    command_line.check_groups(overrides, CONF)
    launchers = [override for override in overrides if re.match(r"hydra[/.](launcher|sweeper)", override)]
    check_launcher(launchers)
    with initialize_config_dir(str(CONF), version_base=None):
        for job in jobs([override for override in overrides if override not in launchers]):
            compose.checked(hydra_compose("config", overrides=job))


def check_launcher(overrides: list[str]) -> None:
    """Compose a launcher's and a sweeper's settings, where their plugins are installed."""
    if any(override.startswith("hydra/sweeper=optuna") for override in overrides):
        if find_spec("hydra_plugins.hydra_optuna_sweeper"):
            with initialize_config_dir(str(CONF), version_base=None):
                hydra_compose("config", overrides=overrides, return_hydra_config=True)
        return
    for name in (override.partition("=")[2] for override in overrides if override.startswith("hydra/launcher=")):
        text = (CONF / "hydra/launcher" / f"{name}.yaml").read_text(encoding="utf-8")
        plugin = next(known for known in ("joblib", "ray", "submitit", "slurm") if f"- {known}" in text)
        if find_spec(f"hydra_plugins.hydra_{plugin.replace('slurm', 'submitit')}_launcher"):
            with initialize_config_dir(str(CONF), version_base=None):
                hydra_compose("config", overrides=overrides, return_hydra_config=True)


@pytest.mark.parametrize("page", [page for page in PAGES if command_lines(page)])
def test_a_shell_can_read_every_command(page: str) -> None:
    """As it is printed: brackets and braces that a shell would read are in quotes."""
    checked = subprocess.run(["sh", "-n"], input="\n".join(command_lines(page)), text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("arguments", commands("make"))
def test_make_has_the_targets_and_variables(arguments: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for argument in arguments:
        name, is_variable, _ = argument.partition("=")
        rule = rf"^{name} \?=" if is_variable else rf"^(?:\S+ )*{name}(?: \S+)*:"
        assert re.search(rule, makefile, re.MULTILINE), argument


@pytest.mark.parametrize("arguments", commands("pip", "install"))
def test_the_extras_exist(arguments: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for names in re.findall(r"\[(.*)\]", " ".join(arguments)):
        assert set(names.split(",")) <= set(extras)


@pytest.mark.parametrize("arguments", commands("python"))
def test_scripts_and_modules_exist_with_their_options(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        assert find_spec(arguments[1])
    elif arguments[0].startswith(("examples/", "scripts/")):
        code = (ROOT / arguments[0]).read_text(encoding="utf-8")
        assert all(argument in code for argument in arguments if argument.startswith("--"))
    else:
        assert arguments[0] == "run.py"


def anchors(page: Path) -> set[str]:
    """The anchors of a page: those that GitHub makes of its headings, or the ids of its elements in HTML."""
    if page.suffix == ".html":
        return set(re.findall(r'id="([^"]+)"', page.read_text(encoding="utf-8")))
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in LINK.findall(PAGES[page]):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = (ROOT / page).parent / path if path else ROOT / page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link
