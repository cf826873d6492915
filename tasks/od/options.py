"""What the settings of the two detectors may be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tasks.od import vgg
from tmsgd_bench.checks import Rule, Section, Variants, choice, flag, number, optional, whole
from tmsgd_bench.errors import ConfigError

OWN = "selective_search"
IMPORTED = re.compile(r"imported-[0-9a-f]{16}")
"""The name under which imported proposals are kept."""
MODES = ("fast", "quality")
SCALES = whole(1, 1_000_000)
SIDE = whole(16, 8192)
"""Pixels; below 16 nothing is left of the last features."""


def _multiple_of_8(value: Any) -> bool:
    return whole(8, 512).accepts(value) and value % 8 == 0


WIDTH = Rule("a multiple of 8 from 8 to 512", 64, _multiple_of_8)
"""Of RFBNet."""
FROZEN_STAGES = choice(*range(len(vgg.STAGES) + 1))


def _check_kept(name: str, values: Mapping[str, Any]) -> None:
    if values["keep_features"] and values["frozen_stages"] < len(vgg.STAGES):
        raise ConfigError(
            f"{name}.keep_features=true keeps the outputs of stages that do not change, and "
            f"{name}.frozen_stages={values['frozen_stages']} trains some: set {name}.frozen_stages={len(vgg.STAGES)}."
        )


def _check_rfbnet(name: str, values: Mapping[str, Any]) -> None:
    _check_kept(name, values)
    if values["keep_features"] and values["augment"] != "none":
        raise ConfigError(
            f"{name}.keep_features=true keeps the features of unchanged images, and {name}.augment={values['augment']} "
            f"changes them in every epoch: set {name}.augment=none."
        )


def _check_fast_rcnn(name: str, values: Mapping[str, Any]) -> None:
    _check_kept(name, values)
    short, long = values["short_side"], values["long_side"]
    if long < short:
        raise ConfigError(f"{name}.long_side is {long}, below {name}.short_side={short}: raise it.")


SEARCH = {
    "mode": choice(*MODES),
    "base_k": SCALES,
    "increment_k": SCALES,
    "sigma": number(0, 100, 0.8, above=True, below=True),
}
"""What selective search depends on."""

PROPOSALS = Section(
    {
        "kind": Rule(
            f"{OWN} or a name such as imported-0123456789abcdef, which importing a file prints",
            OWN,
            lambda value: value == OWN or (isinstance(value, str) and IMPORTED.fullmatch(value) is not None),
        ),
        "limit": whole(1, 1_000_000),
        "min_side": whole(0, 1_000_000),
        **SEARCH,
    }
)

RFBNET = Section(
    {
        "width": WIDTH,
        "head_width": optional(WIDTH),
        "weights": vgg.WEIGHTS,
        "frozen_stages": FROZEN_STAGES,
        "keep_features": flag(),
        "augment": choice("ssd", "none"),
    },
    together=_check_rfbnet,
)

FAST_RCNN = Section(
    {
        "width": whole(1, 128),
        "weights": vgg.WEIGHTS,
        "frozen_stages": FROZEN_STAGES,
        "hidden": optional(whole(1, 65_536)),
        "feature_scale": number(0, 1e6, 0.1, above=True),
        "keep_features": flag(),
        "flip": flag(),
        "short_side": SIDE,
        "long_side": SIDE,
        "test_proposals": optional(whole(1)),
        "proposals": PROPOSALS,
    },
    together=_check_fast_rcnn,
)

OPTIONS = Variants("detector", {"rfbnet": RFBNET, "fast_rcnn": FAST_RCNN})
"""Of a model, without its name."""
