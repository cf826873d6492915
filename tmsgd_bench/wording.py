"""Numbers with their nouns."""

from __future__ import annotations


def number_of(number: float, noun: str) -> str:
    """A whole number with its noun: ``1 epoch``, ``2 epochs``, ``0 epochs``.

    Args:
        number: whole.
        noun: in the singular; its plural ends in "s".
    """
    return f"{number:.0f} {noun}{'' if number == 1 else 's'}"
