"""Inception features for FID (Heusel et al. 2017, arXiv 1706.08500), from torch-fidelity's network.

``python -m tasks.ig.inception`` downloads the weights.
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from tasks.ig.features import FeatureNetwork
from tmsgd_bench.data import weights
from tmsgd_bench.data.catalog import data_root
from tmsgd_bench.data.sources import DataFile
from tmsgd_bench.errors import BenchError, DataError
from tmsgd_bench.task import Metric

WEIGHTS = DataFile(
    name="pt_inception-2015-12-05-6726825d.pth",
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    bytes=95_628_359,
)
"""The original FID's network (TensorFlow, 2015-12-05), converted; torch-fidelity publishes the same bytes."""
LAYERS = ["64", "2048", "logits"]


class InceptionFeatures(FeatureNetwork):
    """One pass for three distances: 2,048 features for FID, and those that fit the paper's scale of 0.05 to 0.09.

    Args:
        network: takes images (uint8, (images, 3, height, width)) and returns, each of shape (images, size), the first
            max-pooling's averages, the last pooling's, and the logits of its classes.
        sizes: of the three.
    """

    key = "inception-6726825d"
    distances = (
        Metric("fid", "", "min", "FID"),
        Metric("fid64", "", "min", "FID (64-d)"),
        Metric("fid_softmax", "", "min", "FID (softmax)"),
    )

    def __init__(self, network: nn.Module, sizes: tuple[int, int, int] = (64, 2048, 1008)) -> None:
        super().__init__()
        self.network = network
        self.sizes = {"fid": sizes[1], "fid64": sizes[0], "fid_softmax": sizes[2]}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The last pooling's features, the first one's, and the probabilities of the classes."""
        first, last, logits = self.network(images)
        return {"fid": last, "fid64": first, "fid_softmax": logits.softmax(dim=1)}


def lacking(folder: Path) -> str:
    """What FID lacks, with the remedy, as a clause; empty if nothing.

    Args:
        folder: of the weights.
    """
    path = folder / WEIGHTS.name
    if not path.exists():
        return f"{path} is missing: {remedy(folder)}"
    if importlib.util.find_spec("torch_fidelity") is None:
        return "the package torch-fidelity is not installed: pip install -e '.[ig]'"
    return ""


def remedy(folder: Path) -> str:
    """How to get the weights, as the end of a sentence."""
    root = shlex.quote(str(folder.parent))
    return f"run 'python -m tasks.ig.inception --root {root}', or put {WEIGHTS.url} there"


def load(folder: Path) -> InceptionFeatures:
    """The network with the weights in a folder, in evaluation mode.

    Raises:
        DataError: the weights are not the published ones; they are not opened then.
    """
    path = folder / WEIGHTS.name
    check(path)
    from torch_fidelity import FeatureExtractorInceptionV3  # unpickles what it is given: hence the check before

    network = FeatureExtractorInceptionV3("inception-v3-compat", LAYERS, feature_extractor_weights_path=str(path))
    return InceptionFeatures(network.eval())


def check(path: Path) -> None:
    """Raise DataError unless a file is the published one."""
    if problem := WEIGHTS.problem(path):
        raise DataError(f"{problem}: delete it and {remedy(path.parent)}.")


def fetch(folder: Path) -> Path:
    """Download the weights into a folder, unless they are there, whole; returns their path.

    Raises:
        DataError: the download fails or is not what was published, or the folder cannot be written.
    """
    return weights.fetch(WEIGHTS, folder, "train without FID, with task.features=random")


def main(arguments: Sequence[str] | None = None) -> int:
    """Download the weights; returns the exit code: 0 fine, 2 they cannot be had."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.ig.inception", description="Download the Inception weights that FID needs (96 MB)."
    )
    parser.add_argument("--root", help="folder of the data sets (default: $TMSGD_DATA or the user's cache folder)")
    try:
        path = fetch(data_root(parser.parse_args(arguments).root) / "weights")
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"The weights are in {path}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
