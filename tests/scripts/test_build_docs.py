"""The documentation's site is made of pages that exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


OF_THE_PACKAGE = "package.md"
"""The page of a package index: Start says the same."""


@pytest.fixture(scope="module")
def site(script: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with all pages."""
    folder = tmp_path_factory.mktemp("site")
    script("build_docs").gather(folder)
    return folder


def pages(entries: Any) -> Iterator[str]:
    if isinstance(entries, str):
        yield entries
    else:
        for entry in entries if isinstance(entries, list) else entries.values():
            yield from pages(entry)


def test_every_page_of_the_site_is_there_and_every_page_of_the_docs_is_in_the_site(site: Path) -> None:
    listed = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert [page for page in listed if not (site / page).is_file()] == []
    docs = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md") if path.name != OF_THE_PACKAGE}
    assert docs - set(listed) == set()


def test_links_lead_to_pages_and_files_of_the_site(site: Path, script: Callable[[str], ModuleType]) -> None:
    link = script("build_docs").LINK
    assert link.findall((site / "README.md").read_text(encoding="utf-8"))
    for page in site.rglob("*.md"):
        targets = [target for target in link.findall(page.read_text(encoding="utf-8")) if "://" not in target]
        assert [target for target in targets if not (page.parent / target).is_file()] == [], page


def test_runs_are_not_in_the_site(site: Path) -> None:
    assert list(site.rglob("*.parquet")) == []
