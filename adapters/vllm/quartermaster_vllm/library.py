"""The C library under ctypes: `npm run build:c` makes it, QUARTERMASTER_LIBRARY names another one."""

import ctypes
import os
import pathlib

OUT_OF_BLOCKS = -3
ALREADY_FREE = -26

_U32 = ctypes.c_uint32
_CALLS = {
    "fits": (_U32, _U32),
    "allocate": (_U32, _U32),
    "release": (_U32,),
    "enter_keys": (_U32, _U32, _U32),
    "find_keys": (_U32, _U32, _U32, ctypes.c_int),
    "drop_keys": (_U32,),
    "set_aside": (_U32, ctypes.c_int),
}


class QuartermasterError(RuntimeError):
    """A call that the core refused. `code` is the name of its status, as "OUT_OF_MEMORY"."""

    def __init__(self, code, what):
        super().__init__(f"{what}: {code}")
        self.code = code


class KeyedView(ctypes.Structure):
    """qm_keyed_view of quartermaster.h."""

    _fields_ = [
        ("header", ctypes.c_void_p),
        ("blocks", ctypes.c_void_p),
        ("stride", _U32),
        ("ids", ctypes.c_void_p),
        ("input", ctypes.c_void_p),
    ]


def find_library():
    """Path of the library: QUARTERMASTER_LIBRARY, else what build:c has left in this checkout, SIMD first."""
    named = os.environ.get("QUARTERMASTER_LIBRARY")
    if named:
        return named
    root = pathlib.Path(__file__).resolve().parents[3]
    for variant in ("simd", "scalar"):
        path = root / "build" / "c" / variant / "installed" / "lib" / "libquartermaster.so"
        if path.exists():
            return str(path)
    raise FileNotFoundError(
        f"no libquartermaster.so under {root / 'build' / 'c'}: run npm run build:c, or set QUARTERMASTER_LIBRARY"
    )


def _load(path):
    # Calls are short: letting go of the interpreter's lock around each would cost more than most of them.
    library = ctypes.PyDLL(path)
    library.qm_core_create.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.POINTER(ctypes.c_void_p)]
    library.qm_core_free.argtypes = [ctypes.c_void_p]
    library.qm_core_validate.argtypes = [ctypes.c_void_p]
    library.qm_status_name.argtypes = [ctypes.c_int]
    library.qm_status_name.restype = ctypes.c_char_p
    library.qm_keyed_pool_create.argtypes = [ctypes.c_void_p, _U32, _U32, _U32, ctypes.POINTER(_U32)]
    library.qm_keyed_pool_view.argtypes = [ctypes.c_void_p, _U32, ctypes.POINTER(KeyedView)]
    for name, arguments in _CALLS.items():
        getattr(library, f"qm_keyed_pool_{name}").argtypes = [ctypes.c_void_p, _U32, *arguments]
    return library


_loaded = {}


def library():
    """The library, loaded once a path."""
    path = find_library()
    if path not in _loaded:
        _loaded[path] = _load(path)
    return _loaded[path]


def check(status, what):
    """`status`, or a QuartermasterError when it is negative."""
    if status < 0:
        raise QuartermasterError(library().qm_status_name(status).decode(), what)
    return status
