"""The package: the optimizer needs torch alone, the benchmark its extra, and each text says what the others say."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
import yaml

import tmsgd_bench
from tmsgd_bench import extras

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
WITHOUT_BENCHMARK = {"bench", "examples"}
USE = """
import pkgutil, torch
from tmsgd_bench import TMSGD, MultistepScheme, optim
from tmsgd_bench.optim import SCHEMES, AutoSwitch, largest_stable_lr, sharpness

for module in pkgutil.walk_packages(optim.__path__, "tmsgd_bench.optim."):
    if not module.name.endswith((".apollo", ".triton_kernel")):  # of the benchmark, and of a GPU's Triton
        __import__(module.name)
weight = torch.nn.Parameter(torch.ones(3))
for options in ({"fused": False, "foreach": False}, {"foreach": True}, {"fused": True}):
    optimizer = TMSGD([weight], lr=0.1, momentum=0.5, switch_step=1, **options)
    for _ in range(4):
        weight.grad = weight.detach().clone()
        optimizer.step()
assert largest_stable_lr(sharpness(lambda: weight.square().sum(), [weight])) > 0
foreign = [name for name in BLOCKED if sys.modules.get(name)]
assert not foreign, foreign
print("trained")
"""
TEMPLATE = "import sys\nBLOCKED = {blocked}\nsys.modules.update(dict.fromkeys(BLOCKED))\n{code}"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@functools.cache
def origins() -> dict[str, set[str]]:
    """Of each name that can be imported here, the distributions that bring it."""
    return {name: set(map(normal, brought)) for name, brought in packages_distributions().items()}


def names(requirements: Iterable[str]) -> set[str]:
    """The distributions that requirements ask for in any environment, without those of extras."""
    asked = [requirement for requirement in requirements if "extra ==" not in requirement]
    return {normal(re.split(r"[^\w.-]", requirement, maxsplit=1)[0]) for requirement in asked}


def with_requirements(name: str) -> set[str]:
    """A distribution and all that it requires, in turn."""
    found, waiting = set[str](), {name}
    while waiting:
        found |= waiting
        waiting = {other for name in waiting for other in requirements_of(name)} - found
    return found


def requirements_of(name: str) -> set[str]:
    try:
        return names(requires(name) or ())
    except PackageNotFoundError:  # of another platform
        return set()


def without_all_but_torch(code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter that can import torch, what torch requires, and this project, and nothing else."""
    allowed = with_requirements("torch") | {PROJECT["name"]}
    blocked = [
        name
        for name, distributions in origins().items()
        if not allowed & distributions and name not in sys.stdlib_module_names
    ]
    assert {"numpy", "pandas", "hydra", "yaml"} <= set(blocked)
    command = [sys.executable, "-c", TEMPLATE.format(blocked=blocked, code=code), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, **options)


def test_the_optimizer_needs_torch_alone() -> None:
    done = without_all_but_torch(USE)
    assert done.returncode == 0 and done.stdout == "trained\n", done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import runpy; runpy.run_module('tmsgd_bench', run_name='__main__')",
        "import runpy; runpy.run_path('run.py', run_name='__main__')",
    ],
    ids=["tmsgd-bench", "run.py"],
)
def test_without_the_extra_a_command_names_it_in_one_sentence(code: str) -> None:
    done = without_all_but_torch(code, "table", "5")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: the benchmark needs PIL, ")
    assert "pandas" in done.stderr and "install tmsgd-bench[bench]" in done.stderr


def test_an_import_that_fails_for_another_reason_is_not_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModuleNotFoundError), extras.explained():
        import no_such_module_at_all  # type: ignore[import-not-found]  # noqa: F401
    assert not capsys.readouterr().err


def test_torch_is_the_only_dependency() -> None:
    assert names(PROJECT["dependencies"]) == {"torch"}
    assert all(PROJECT["name"] + "[bench]" in EXTRAS[extra] for extra in set(EXTRAS) - WITHOUT_BENCHMARK)


def test_the_extra_is_known_by_the_names_of_its_imports() -> None:
    found = {distribution for name in extras.IMPORTS for distribution in origins()[name]}
    assert found == names(EXTRAS["bench"]) - {"torch"}
    assert len(extras.IMPORTS) == len(found)


def test_the_packages_page_has_no_link_to_a_file() -> None:
    """On a package index there are no files beside it."""
    page = (ROOT / PROJECT["readme"]).read_text(encoding="utf-8")
    assert all(link.startswith("https://") for link in re.findall(r"\]\(([^)]*)\)", page))


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == tmsgd_bench.__version__ and citation["license"] == PROJECT["license"]
    (paper,) = citation["references"]
    assert paper["url"] == "https://arxiv.org/abs/2409.04707" and len(paper["authors"]) == 6


def test_a_commit_is_checked_by_make_lint() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert local["repo"] == "local" and [hook["entry"] for hook in local["hooks"]] == ["make lint"]


def test_an_interrupt_while_a_command_is_imported_ends_it_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended, extras.explained():
        raise KeyboardInterrupt
    assert ended.value.code == 130 and capsys.readouterr().err == "interrupted: nothing was started\n"
