"""A development kit in miniature, written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

Object = tuple[str, Sequence[float], bool]
"""A class, xmin ymin xmax ymax as in the file, and whether it is difficult."""


def write_annotation(path: Path, objects: Sequence[Object], size: tuple[int, int] = (500, 375)) -> Path:
    """Write an annotation laid out as VOC2007's are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    text = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    path.write_text(f"<annotation>\n{text}\n{''.join(map(object_text, objects))}</annotation>\n")
    return path


def object_text(described: Object) -> str:
    name, box, difficult = described
    corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    numbers = "".join(f"<{corner}>{value:g}</{corner}>" for corner, value in corners)
    return (
        f"<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>"
        f"<difficult>{difficult:d}</difficult><bndbox>{numbers}</bndbox></object>\n"
    )


def write_devkit(
    folder: Path, images: Mapping[str, Sequence[Object]], split: str = "test", size: tuple[int, int] = (500, 375)
) -> Path:
    """Write the annotations and the list of a split."""
    for name, objects in images.items():
        write_annotation(folder / "Annotations" / f"{name}.xml", objects, size)
    listed = folder / "ImageSets" / "Main" / f"{split}.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("".join(f"{name}\n" for name in images))
    return folder
