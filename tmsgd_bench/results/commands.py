"""Parts of the commands that are printed, to train runs like recorded ones."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tmsgd_bench.results import store


def own_folders(runs: Iterable[Path]) -> list[str]:
    """The options that name folders of the user's own YAMLs, as recorded runs had them.

    The folders themselves are not recorded: FOLDER stands for them.

    Args:
        runs: folders of runs.
    """
    words = [str(word) for folder in runs for word in store.environment(folder).get("arguments") or []]
    config_dir = any(re.fullmatch(r"(--config-dir|-cd)(=.*)?|-cd.+", word) for word in words)
    search_path = any(word.startswith("hydra.searchpath=") for word in words)
    return ["--config-dir FOLDER"] * config_dir + ["'hydra.searchpath=[FOLDER]'"] * search_path
