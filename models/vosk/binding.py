"""Binds libvosk's hash tables to the system's libstdc++, whatever else a process has preloaded.

libvosk exports two functions of its own that choose how `std::unordered_map` grows. If libstdc++ is
in the global scope first (a preloaded jemalloc brings it), the linker gives libvosk that one's
instead. Its tables then iterate in another order, Kaldi's determinisation breaks ties otherwise,
and the same audio gets another text. Every process therefore puts libstdc++ into the global scope
before it loads libvosk.
"""

import ctypes

_LIBRARY = "libstdc++.so.6"
_HASH_POLICY = (
    "_ZNKSt8__detail20_Prime_rehash_policy11_M_next_bktEm",
    "_ZNKSt8__detail20_Prime_rehash_policy14_M_need_rehashEmmm",
)
"""`std::__detail::_Prime_rehash_policy`, as the Itanium C++ ABI mangles its members."""


class _Found(ctypes.Structure):
    """Structure `Dl_info` of dladdr(3)."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def bind_hash_tables() -> str | None:
    """Put libstdc++ into the global scope; call it before libvosk is loaded.

    Return None, or a sentence if a library that is loaded from now on would get another hash
    policy.
    """
    try:
        ctypes.CDLL(_LIBRARY, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return f"{_LIBRARY} cannot be loaded: {error}"
    return binding_problem()


def binding_problem() -> str | None:
    """Return the library other than libstdc++ to which the hash policy is bound, in words; None if
    it is libstdc++. Looks in the global scope, which the linker searches first."""
    scope = ctypes.CDLL(None)
    scope.dladdr.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Found)]
    for name in _HASH_POLICY:
        try:
            address = ctypes.cast(getattr(scope, name), ctypes.c_void_p)
        except AttributeError:
            return f"{_LIBRARY} does not export {name}"
        found = _Found()
        scope.dladdr(address, ctypes.byref(found))
        file = (found.file or b"unknown").decode(errors="replace")
        if "libstdc++" not in file:
            return (
                f"hash tables are those of {file} and not of {_LIBRARY}: texts may differ from "
                "those of other servers where two readings are equally likely"
            )
    return None
