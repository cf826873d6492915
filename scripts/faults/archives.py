"""Archives with hostile members: nothing outside the data set's folder may change."""

from __future__ import annotations

import io
import shutil
import stat
import tarfile
import traceback
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.trial import BELIEVED, LOST, TRACEBACK, Attempt, Fault, Kind
from tmsgd_bench.data.catalog import Archive
from tmsgd_bench.errors import DataError

INSIDE = "repository-0123/data/"
HARMLESS = {"points.csv": b"frame,x\n", "frames/a.jpg": b"first"}
HOSTILE = b"hostile"
MEMBERS: tuple[dict[str, str], ...] = ({INSIDE: ""}, {"": ""}, {"repository-0123": ""}, {INSIDE: "inner/"})
"""Which members are unpacked where, as in a data set's entry; the start of a path need not end in a slash."""


@dataclass(frozen=True)
class Member:
    """An entry of an archive; ``link`` makes it a link to somewhere."""

    name: str
    link: str = ""
    hard: bool = False


def attempt(trial: Attempt) -> None:
    """Unpack an archive of harmless and hostile members."""
    folder = trial.place.fresh("archives")
    target, outside = folder / "root/small", folder / "outside"
    target.mkdir(parents=True)
    outside.mkdir()
    (outside / "kept").write_bytes(b"kept")
    members = trial.random.choice(MEMBERS)
    hostile = [member for _ in range(2) for member in trial.random.choice(ATTACKS)(outside)]
    path = folder / trial.random.choice(("pack.tar.gz", "pack.zip"))
    trial.fault = f"{path.name}, members {members}: {', '.join(f'{m.name!r} {m.link}' for m in hostile)}"
    (_in_zip if path.suffix == ".zip" else _in_tar)(path, hostile)
    refusal = _unpack(Archive(path.as_uri(), members), target)
    _expect_untouched(folder, target, path)
    if not refusal and members == {INSIDE: ""} and any((target / n).read_bytes() != d for n, d in HARMLESS.items()):
        raise Fault(LOST, "a harmless member was not unpacked")
    shutil.rmtree(folder)


def _unpack(archive: Archive, target: Path) -> str:
    """The message, if the archive was refused; otherwise empty."""
    try:
        archive.fetch(target, "put it there by hand")
    except (DataError, OSError) as error:
        return str(error)
    except Exception as error:
        raise Fault(TRACEBACK, traceback.format_exc()) from error
    return ""


def _expect_untouched(folder: Path, target: Path, archive: Path) -> None:
    outside = [path for path in folder.rglob("*") if path != archive and not path.is_relative_to(target)]
    hostile = [path for path in outside if path.is_file() and HOSTILE in path.read_bytes()]
    untouched = folder / "outside/kept"
    if hostile or not untouched.exists() or untouched.read_bytes() != b"kept" or untouched.is_symlink():
        raise Fault(BELIEVED, f"written outside of {target}: {[str(path) for path in hostile]}")


def _upwards(outside: Path) -> Sequence[Member]:
    return (Member(INSIDE + "../../outside/up"), Member(INSIDE + "frames/../../../outside/up"))


def _absolute(outside: Path) -> Sequence[Member]:
    names = (f"{outside}/absolute", f"{INSIDE}/{outside}/absolute", f"repository-0123{outside}/absolute")
    return [Member(name) for name in names]


def _through_a_link(outside: Path) -> Sequence[Member]:
    return (Member(INSIDE + "door", link=str(outside)), Member(INSIDE + "door/through"))


def _link_to_a_file(outside: Path) -> Sequence[Member]:
    return (Member(INSIDE + "alias", link=str(outside / "kept")), Member(INSIDE + "alias"))


def _hard_link(outside: Path) -> Sequence[Member]:
    return (Member(INSIDE + "twin", link=str(outside / "kept"), hard=True), Member(INSIDE + "twin"))


def _backwards(outside: Path) -> Sequence[Member]:
    return (Member(INSIDE + "..\\..\\outside\\back"), Member("C:\\outside\\back"))


def _odd_names(outside: Path) -> Sequence[Member]:
    return (Member(INSIDE + "n" * 300), Member(INSIDE), Member(INSIDE + "."), Member(INSIDE + "points.csv/below"))


def _unprintable(outside: Path) -> Sequence[Member]:
    return (Member(INSIDE + "a\x1b[2Jb"), Member(INSIDE + "new\nline"), Member(INSIDE + "\udce4"))


ATTACKS: tuple[Callable[[Path], Sequence[Member]], ...] = (
    *(_upwards, _absolute, _through_a_link, _link_to_a_file, _hard_link, _backwards, _odd_names, _unprintable),
)


def _in_tar(path: Path, hostile: Sequence[Member]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in HARMLESS.items():
            _add(archive, tarfile.TarInfo(INSIDE + name), data)
        for member in hostile:
            info = tarfile.TarInfo(member.name)
            if member.link:
                info.type, info.linkname = tarfile.LNKTYPE if member.hard else tarfile.SYMTYPE, member.link
            _add(archive, info, b"" if member.link else HOSTILE)


def _add(archive: tarfile.TarFile, info: tarfile.TarInfo, data: bytes) -> None:
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def _in_zip(path: Path, hostile: Sequence[Member]) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # the same name twice
        for name, data in HARMLESS.items():
            archive.writestr(INSIDE + name, data)
        for member in hostile:
            info = zipfile.ZipInfo(member.name.encode("utf-8", "replace").decode())
            if member.link:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, member.link or HOSTILE)


KIND = Kind("archives", attempt, count=300, share=0.2)
