"""The fused step on the CPU: builds step.c with the machine's C compiler and calls it through ctypes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from tmsgd_bench.optim.fused.addresses import addresses_of, allocate, sizes_of, table_of
from tmsgd_bench.optim.kernels import Phase, Rule, State, exchange

SOURCE = Path(__file__).with_name("step.c")
CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}  # as in step.c
BASE = ("-O3", "-shared", "-fPIC", "-ffp-contract=off", "-lm")
# Tried in turn: older compilers and other processors lack some. 256-bit vectors measured faster than 512.
FLAGS = (
    ("-march=native", "-mprefer-vector-width=256", "-fopenmp"),
    ("-march=native", "-fopenmp"),
    ("-mcpu=native", "-fopenmp"),
    ("-march=native",),
    (),
)
BUILD_SECONDS = 60.0
STAGGER = 1024  # bytes, a quarter of a page
STAGGERED_FROM = 1 << 16  # elements


class Unavailable(Exception):
    """There is no fused step on this machine; the message says why."""


class _Rule(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_double) for name in ("lr", "weight_decay", "momentum", "alpha", "beta", "rate")),
        *((name, ctypes.c_int32) for name in ("phase", "maximize", "first")),
    )


def unavailable() -> str:
    """Why the library cannot be built or loaded on this machine; empty if it is loaded."""
    library = _library()
    return str(library) if isinstance(library, Unavailable) else ""


def step(params: list[Tensor], states: list[State], rule: Rule, first: bool) -> None:
    """One step of dense CPU tensors of one dtype, in as many threads as torch uses.

    Args:
        first: whether there are no momentum buffers yet.
    """
    library = _library()
    assert isinstance(library, ctypes.CDLL)  # the caller has asked ``unavailable``
    if first or rule.phase is Phase.START:
        allocate(params, states, rule, first, staggered_like)
    table = table_of(sizes_of(params), addresses_of(params, states, rule))
    numbers = _Rule(
        *(float(rule.lr), rule.weight_decay, rule.momentum, rule.alpha, rule.beta, float(rule.lr) * rule.gain),
        *(int(rule.phase), rule.maximize, first),
    )
    library.tmsgd_step(
        table.buffer_info()[0], len(params), CODES[params[0].dtype], ctypes.byref(numbers), torch.get_num_threads()
    )
    if rule.phase is Phase.HISTORY:
        for state in states:
            exchange(state)


def staggered_like(param: Tensor, slot: int) -> Tensor:
    """An uninitialised state tensor in the parameter's layout.

    Large tensors all start at the same offset of a page. If four of them are read side by side, they compete for the
    same few cache lines, which costs up to a sixth of the speed. So each slot starts a quarter of a page later.
    """
    if param.numel() < STAGGERED_FROM or not param.is_contiguous():
        return torch.empty_like(param, requires_grad=False)
    skip = slot * STAGGER // param.element_size()
    return torch.zeros(skip + param.numel(), dtype=param.dtype, device=param.device)[skip:].view(param.shape)


@functools.cache
def _library() -> ctypes.CDLL | Unavailable:
    """The loaded library, or why there is none; cached, so that a failure is not repeated at every step."""
    try:
        return _load_or_build()
    except Unavailable as error:
        return error
    except (OSError, subprocess.SubprocessError) as error:
        return Unavailable(f"step.c could not be built ({error})")


def _load_or_build() -> ctypes.CDLL:
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _load_built(folder) or _build(folder)
    except (OSError, RuntimeError):  # the cache folder cannot be written: build a library for this process only
        with tempfile.TemporaryDirectory() as temporary:
            return _build(Path(temporary))


def _load_built(folder: Path) -> ctypes.CDLL | None:
    """The library that an earlier process built. Its name has its checksum: loading a damaged file can crash."""
    for path in folder.glob(f"step-{_fingerprint()}-*.so"):
        if path.stem.endswith(_sha256(path)):
            return _load(path)
        path.unlink()
    return None


def cache_folder() -> Path:
    """Where the built library is kept: ``tmsgd-bench/build`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tmsgd-bench" / "build"


def _fingerprint() -> str:
    """A digest of everything that the library depends on: its source, the compiler's flags, and the processor."""
    texts = [SOURCE.read_text(encoding="utf-8"), repr((BASE, FLAGS)), platform.machine(), _processor()]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() + platform.node()
    keys = ("flags", "Features", "model name", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(keys)}))


def _build(folder: Path) -> ctypes.CDLL:
    """Compile step.c under a temporary name, load it, and rename it, so that processes can build at the same time."""
    compiler = os.environ.get("CC", "").strip() or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        raise Unavailable("no C compiler is installed")
    handle, name = tempfile.mkstemp(suffix=".so", dir=folder)
    os.close(handle)
    temporary = Path(name)
    try:
        _compile(compiler.split(), temporary)
        library = _load(temporary)
        temporary.rename(folder / f"step-{_fingerprint()}-{_sha256(temporary)}.so")
    finally:
        temporary.unlink(missing_ok=True)
    return library


def _compile(compiler: list[str], target: Path) -> None:
    message = ""
    for flags in FLAGS:
        command = [*compiler, *flags, "-o", str(target), str(SOURCE), *BASE]
        done = subprocess.run(command, capture_output=True, timeout=BUILD_SECONDS)
        if done.returncode == 0 and target.stat().st_size:
            return
        stderr = done.stderr.decode(errors="replace").strip() or "no message"
        message = message or stderr.splitlines()[0]
    raise Unavailable(f"the compiler {' '.join(compiler)!r} cannot build step.c ({message})")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    if library.tmsgd_abi() != 6 * 8 * 1000 + ctypes.sizeof(_Rule):
        raise Unavailable(f"{path} was built with another layout")
    library.tmsgd_step.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
    library.tmsgd_step.restype = None
    return library
