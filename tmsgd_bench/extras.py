"""What the benchmark needs beyond torch: the packages of the extra ``bench``. The optimizer needs none of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

IMPORTS = (
    "PIL",
    "filelock",
    "hydra",
    "jinja2",
    "markdown_it",
    "matplotlib",
    "numpy",
    "omegaconf",
    "pandas",
    "pyarrow",
    "pytorch_optimizer",
    "rich",
    "scipy",
    "torchmetrics",
    "torchvision",
    "tqdm",
    "yaml",
)
"""The names by which the packages of the extra are imported."""


def lacking() -> str | None:
    """One sentence that names the packages of the extra that are not installed; None if all are there."""
    missing = [name for name in IMPORTS if find_spec(name) is None]
    if not missing:
        return None
    return f"the benchmark needs {', '.join(missing)}: install tmsgd-bench[bench] (in a checkout, make setup does)."


@contextmanager
def explained() -> Iterator[None]:
    """Around the imports of a command: if they fail for want of the extra, print one sentence and exit with code 2.

    Imports take seconds, so Ctrl-C may come within them: then exit with code 130, as later.

    Raises:
        ImportError: the imports fail for another reason.
    """
    try:
        yield
    except ImportError:
        sentence = lacking()
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: nothing was started", file=sys.stderr)
        sys.exit(130)
