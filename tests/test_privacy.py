"""Arguments are recorded without what they tell of a machine, and otherwise as they were."""

from __future__ import annotations

import getpass
import json
import socket
import sys
from pathlib import Path

import pytest
import torch

from tmsgd_bench import privacy
from tmsgd_bench.engine import environment
from tmsgd_bench.results import packed, store

RESULTS = Path(__file__).parents[1] / "results"

PLACES = {
    "model.weights=/home/me/w.pth": "model.weights=…/w.pth",
    "model.weights='/home/me/My Files/w.pth'": "model.weights='…/w.pth'",
    'model.weights="/home/me/x, y/w.pth"': 'model.weights="…/w.pth"',
    "model.weights=my/own/w.pt": "model.weights=…/w.pt",
    "--config-dir=/home/me/my": "--config-dir=PATH",
    "--config-dir=my/conf": "--config-dir=PATH",
    "-cd=/home/me": "-cd=PATH",
    "-cd/home/me": "PATH",
    "hydra.run.dir=/scratch/me/${now:%H}": "hydra.run.dir=PATH{now:PATH}",
    "hydra.run.dir=out/me": "hydra.run.dir=PATH",
    "hydra.sweep.dir=/data/me/sweeps": "hydra.sweep.dir=PATH",
    "data.root=/home/me/data": "data.root=PATH",
    "results.root=out/me": "results.root=PATH",
    "+x=/abs": "+x=PATH",
    "++x.y=/abs/file.yaml": "++x.y=…/file.yaml",
    "a=[/x,/y]": "a=[PATH,PATH]",
    "a=/x,/y/z.csv": "a=PATH,…/z.csv",
    "a={k: /home/me}": "a={PATH}",
    "a={root:out/me}": "a={root:PATH}",
    "a=choice(/x,/y)": "a=choice(PATH,PATH)",
    "a=~/x": "a=PATH",
    "a=~me/x": "a=PATH",
    "a=~": "a=PATH",
    "~/x": "PATH",
    "a=../secret": "a=PATH",
    "a=./secret": "a=PATH",
    "a=file:///home/me/w.pth": "a=…/w.pth",
    "a=http://host.example:5000/me": "a=PATH",
    "a=s3://bucket/me": "a=PATH",
    r"a=C:\Users\me\w.pth": "a=…/w.pth",
    "a=D:/me": "a=PATH",
    r"a=\\server\me": "a=PATH",
    "/home/me/run.py": "…/run.py",
    "a=x:/home/me": "a=PATH",
    "hydra.job.env_set.WANDB_API_KEY=abc": "hydra.job.env_set.WANDB_API_KEY=SECRET",
    "+tracker.token=abc": "+tracker.token=SECRET",
    "task.tokens=32": "task.tokens=32",
}
KEPT = [
    *("-m", "experiment=table5", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1,2", "seed=range(0,3)"),
    *("task.splits=train/val", "model.weights=imagenet", "lr=1e-3", "optimizer=sgd,tmsgd", "+tracker=wandb"),
    *("~task.schedule", "data.root=null", "switch_epoch=0,5,25", "task={name: tc, tokens: 32}", "protocol=smoke"),
    *("schedule=null", "~hydra.x=1", "note='two words'", "hydra/launcher@x=cores", "x=[1,2,3]", "data.limit=100"),
]


@pytest.mark.parametrize(("word", "told"), PLACES.items())
def test_places_are_replaced(word: str, told: str) -> None:
    assert privacy.argument(word) == told


@pytest.mark.parametrize("word", KEPT)
def test_other_arguments_are_recorded_as_they_are(word: str) -> None:
    assert privacy.argument(word) == word


def test_what_follows_an_option_for_a_folder_is_one() -> None:
    assert privacy.arguments(["--config-dir", "me", "-cd", "x/y", "a=1"]) == [
        "--config-dir",
        "PATH",
        "-cd",
        "PATH",
        "a=1",
    ]


def test_names_of_host_and_user_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box7.lab.example")
    monkeypatch.setattr(getpass, "getuser", lambda: "alice")
    words = ["x=alice@box7", "group=alice-old,Alice", "y=box7.lab.example", "alice.y=malice"]
    assert privacy.arguments(words) == ["x=USER@HOST", "group=USER-old,USER", "y=HOST", "alice.y=malice"]


def test_the_environment_tells_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", *PLACES, *KEPT])
    recorded = environment.describe(torch.device("cpu"))["arguments"]
    assert recorded == [*PLACES.values(), *KEPT]
    assert not [word for word in recorded if "me" in Path(word).parts]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("**/runs.parquet")), ids=lambda path: path.parent.name)
def test_published_runs_tell_no_place(path: Path) -> None:
    for contents in packed.read(path).values():
        recorded = json.loads(contents[store.ENVIRONMENT])
        for process in (recorded, *recorded.get("before", [])):
            assert privacy.arguments(process.get("arguments", [])) == process.get("arguments", [])
