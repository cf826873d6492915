"""Builds the documentation's web site into site/, offline: ``make docs``.

The pages are those of the repository. Their links lead from docs to results and back, so both lie in one folder,
build/docs, beside the pages of the reference, which are made of the docstrings.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tmsgd_bench.results.published import is_of_the_reader

ROOT = Path(__file__).parents[1]
GATHERED = ROOT / "build" / "docs"
PUBLISHED = {".md", ".png", ".csv", ".tex", ".html", ".json", ".yaml"}
"""Kinds of files in results that pages link to or show; packed runs are not among them."""
ENTRIES = "tmsgd_bench/data/entries/README.md"
REFERENCE = {
    "optim": ("The optimizer", ["tmsgd_bench.optim.tmsgd", "tmsgd_bench.optim.schemes", "tmsgd_bench.optim.curvature"]),
    "task": ("Tasks", ["tmsgd_bench.task", "tmsgd_bench.seeding"]),
    "results": (
        "Results",
        ["tmsgd_bench.results.store", "tmsgd_bench.results.statistics", "tmsgd_bench.results.verdicts"],
    ),
}
"""Pages of the reference: a title, and the modules on it."""
QUIET = {"NO_MKDOCS_2_WARNING": "1"}  # about MkDocs 2, which the theme prints in colours
PAGES = ("README.md", "index.html")
"""The page of a folder."""
LINK = re.compile(r"(?<=\]\()[^)#\s]+")


def gather(folder: Path) -> None:
    """Put all pages, and what they show, into one folder, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", ENTRIES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for path in sorted((ROOT / "results").rglob("*")):
        if path.suffix in PUBLISHED and not is_of_the_reader(path.relative_to(ROOT / "results")):
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    for place in [path for path in (folder / "results").rglob("*") if path.is_dir()]:
        _list(place)
    for page in folder.rglob("*.md"):
        _point_to_pages(page)
    (folder / "reference").mkdir()
    for name, (title, modules) in REFERENCE.items():
        text = "\n\n".join([f"# {title}", *(f"::: {module}" for module in modules)])
        (folder / "reference" / f"{name}.md").write_text(f"{text}\n", encoding="utf-8")


def _list(folder: Path) -> None:
    """Give a folder of results without a page of its own one that lists its files."""
    if any((folder / name).exists() for name in PAGES):
        return
    names = sorted(path.name + "/README.md" * path.is_dir() for path in folder.iterdir())
    lines = [f"# {folder.name}", "", *(f"- [{name.removesuffix('/README.md')}]({name})" for name in names)]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _point_to_pages(page: Path) -> None:
    """Let links to folders lead to their pages: a folder read without a server has no other."""

    def pointed(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(page.parent / match.group()))
        page_of_folder = next((name for name in PAGES if (target / name).exists()), None)
        return f"{match.group().rstrip('/')}/{page_of_folder}" if page_of_folder else match.group()

    page.write_text(LINK.sub(pointed, page.read_text(encoding="utf-8")), encoding="utf-8")


def main() -> int:
    """Gather the pages and build the site; the exit code of mkdocs."""
    if find_spec("mkdocs") is None or find_spec("mkdocstrings") is None:
        print("MkDocs is not installed: pip install -e '.[docs]'.", file=sys.stderr)
        return 1
    gather(GATHERED)
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", *sys.argv[1:]]
    return subprocess.run(build, cwd=ROOT, env=os.environ | QUIET).returncode


if __name__ == "__main__":
    sys.exit(main())
