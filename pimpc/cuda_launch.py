"""Compiles CUDA C by NVIDIA's run-time compiler and launches it from a JAX program.

The launcher is the one that jaxlib has for Triton's kernels: it takes any kernel of arrays as PTX.
"""

import ctypes
import functools
import importlib.util
import re
import zlib
from pathlib import Path

import jax
from jaxtyping import Array

_TARGET = "triton_kernel_call_ffi"
_PTX = 8, 8  # the version that is said at most, for the devices that it knows (NVIDIA's PTX ISA, release notes):
_PTX_KNOWS = {75, 80, 86, 87, 89, 90, 100, 103, 120, 121}


def launch(
    kernel: str, source: str, arguments: list[Array], results: list[jax.ShapeDtypeStruct], shared: int = 0
) -> list[Array]:
    """Runs a kernel with a block of one warp for each index of the results' first axis.

    Args:
        kernel: Its name.
        source: CUDA C, in which it is `extern "C"` and takes pointers to the arguments and then to the results.
        arguments: Arrays.
        results: Their shapes and types; what the kernel does not write is undefined.
        shared: Bytes on the chip that a block has beside those that its text declares.

    Returns:
        The results.
    """
    capability = jax.devices("gpu")[0].compute_capability
    call = _call(kernel, source, capability, results[0].shape[0], len(arguments) + len(results), shared)
    # The launcher's handler is registered by jaxlib itself, under this name.
    return list(jax.ffi.ffi_call(_TARGET, results)(*arguments, opaque=call))


@functools.cache
def _call(kernel: str, source: str, capability: str, blocks: int, arrays: int, shared: int) -> bytes:
    """What the launcher is told."""
    from jaxlib import gpu_triton

    number = int(capability.replace(".", ""))
    it = gpu_triton.TritonKernel(kernel, 1, 1, shared, compile_ptx(source, number), "", number)
    parameters = [gpu_triton.create_array_parameter(0, 16)] * arrays
    return zlib.compress(gpu_triton.TritonKernelCall(it, blocks, 1, 1, parameters).to_proto(kernel, b""))


@functools.cache
def compile_ptx(source: str, capability: int) -> str:
    """Compiles CUDA C for devices of a compute capability, 90 for 9.0.

    Raises:
        RuntimeError: If there is no compiler, or it finds a fault in the source.
    """
    compiler = _compiler()
    program = ctypes.c_void_p()
    compiler.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"pimpc.cu", 0, None, None)
    options = [f"--gpu-architecture=compute_{capability}", "--std=c++17", "--ftz=true", "--prec-div=false"]
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = compiler.nvrtcCompileProgram(program, len(options), given)
    if failed:
        raise RuntimeError(f"The GPU kernels did not compile: {_read(compiler, program, 'ProgramLog')}")
    ptx = _read(compiler, program, "PTX")
    compiler.nvrtcDestroyProgram(ctypes.byref(program))
    return for_older_assemblers(ptx) if capability in _PTX_KNOWS else ptx


def for_older_assemblers(ptx: str) -> str:
    """Says that a text is PTX 8.8 (CUDA 12.9), if it says that it is newer.

    XLA assembles the text of such calls by the first `ptxas` that it finds, which may be older than the compiler, and
    takes no text of a newer version, whatever is in it.
    """
    version = re.search(r"(?m)^\.version (\d+)\.(\d+)", ptx)
    if version is None or (int(version[1]), int(version[2])) <= _PTX:
        return ptx
    return f"{ptx[: version.start()]}.version {_PTX[0]}.{_PTX[1]}{ptx[version.end() :]}"


def _read(compiler: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> str:
    size = ctypes.c_size_t()
    getattr(compiler, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(compiler, f"nvrtcGet{what}")(program, text)
    return text.value.decode()


@functools.cache
def _compiler() -> ctypes.CDLL:
    """NVIDIA's run-time compiler: of the Python packages of CUDA, or else of the system."""
    spec = importlib.util.find_spec("nvidia")
    roots = [] if spec is None else list(spec.submodule_search_locations or ())
    found = sorted(str(path) for root in roots for path in Path(root).glob("*/lib/libnvrtc.so.*"))
    for name in [*found, "libnvrtc.so.13", "libnvrtc.so"]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise RuntimeError("The GPU kernels need NVIDIA's run-time compiler, libnvrtc, which comes with jax[cuda13].")
