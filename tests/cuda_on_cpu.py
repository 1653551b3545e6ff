"""Builds CUDA kernels with the C++ compiler of this machine and runs them on the CPU (see `warp_emulator.h`)."""

import atexit
import ctypes
import functools
import itertools
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import numpy as np

HEADER = Path(__file__).with_name("warp_emulator.h")
FLAGS = ["-O0", "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-ffp-contract=fast"]
FLAGS += ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]  # a CPU forgives what a GPU does not
INPUT_TYPES = (np.float32, np.int32, np.uint32)
FENCE = 256  # bytes around each array, and what the arrays are aligned to


def available():
    return shutil.which("c++") is not None


def compile_kernels(source, names, defines):
    """The kernels `names` of a source whose sizes and settings are macros; compiled once."""
    return _compile(source, tuple(names), tuple((name, str(value)) for name, value in defines.items()))


@functools.cache
def _room():
    """A directory with the header in it, compiled ahead: half of what a kernel takes is what is in front of it."""
    directory = Path(tempfile.mkdtemp(prefix="cuda_on_cpu_"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    header = shutil.copy(HEADER, directory)
    subprocess.run(["c++", *FLAGS, "-x", "c++-header", header, "-o", f"{header}.gch"], capture_output=True, check=False)
    return directory, itertools.count()


@functools.cache
def _compile(source, names, defines):
    directory, numbers = _room()
    path = directory / f"kernels{next(numbers)}.cpp"
    path.write_text(
        "\n".join(
            [
                f'#include "{HEADER.name}"',
                "namespace warp_emulator::kernels { namespace {",
                *(f"#define {name} {value}" for name, value in defines),
                '#line 1 "kernels"',
                source,
                "}}",
                *(f"EXPORT({name})" for name in names),
            ]
        )
    )
    library = path.with_suffix(".so")
    built = subprocess.run(["c++", *FLAGS, "-x", "c++", str(path), "-o", str(library)], capture_output=True, text=True)
    if built.returncode != 0:
        raise RuntimeError(f"the kernels do not compile:\n{built.stderr}")
    return Kernels(library, names)


class Kernels:
    def __init__(self, path, names):
        self._library = ctypes.CDLL(str(path))
        self._lock = threading.Lock()  # a library runs one warp at a time
        self._types = {}
        for name in names:
            types = getattr(self._library, f"types_{name}")
            types.restype = ctypes.c_char_p
            self._types[name] = [np.dtype(kind) for kind in types().decode().split()]

    def run(self, name, inputs, outputs, grid, reverse=False):
        """What `grid` blocks write to arrays of the given shapes and types, which hold NaN or a large number before."""
        given = [array.dtype for array in inputs] + [np.dtype(dtype) for _, dtype in outputs]
        if given != self._types[name]:
            raise TypeError(f"{name} takes {[str(t) for t in self._types[name]]}, not {[str(t) for t in given]}")
        if not all(array.flags.c_contiguous and array.dtype in INPUT_TYPES for array in inputs):
            raise TypeError("inputs must be contiguous arrays of float32, int32 or uint32")
        fenced = [Fenced(array.shape, array.dtype) for array in inputs]
        for array, of in zip(inputs, fenced, strict=True):
            of.array[...] = array
        fenced += [Fenced(shape, dtype) for shape, dtype in outputs]
        pointers = (ctypes.c_void_p * len(fenced))(*(of.array.ctypes.data for of in fenced))
        with self._lock:
            if getattr(self._library, f"run_{name}")(pointers, grid, int(reverse)) != 0:
                error = (ctypes.c_char * 256).in_dll(self._library, "warp_emulator_error").value.decode()
                raise RuntimeError(f"{name}: {error}")
        for i, of in enumerate(fenced):
            if not of.intact():
                raise RuntimeError(f"{name} writes beyond argument {i}")
        return [of.array for of in fenced[len(inputs) :]]


class Fenced:
    """An array with poison in it and around it."""

    def __init__(self, shape, dtype):
        dtype = np.dtype(dtype)
        size = int(np.prod(shape))
        poison = np.nan if dtype.kind == "f" else np.iinfo(dtype).max
        self._all = np.full(size + 3 * FENCE // dtype.itemsize, poison, dtype)
        self._start = (FENCE + -self._all.ctypes.data % FENCE) // dtype.itemsize
        self._end = self._start + size
        self._poison = self._all[:1].tobytes()
        self.array = self._all[self._start : self._end].reshape(shape)

    def intact(self):
        around = self._all[: self._start].tobytes() + self._all[self._end :].tobytes()
        return around == self._poison * (len(around) // len(self._poison))
