"""The C library's memory allocator, which by default hands every large block back to the kernel when it is freed."""

import ctypes
import os
import platform

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1  # what mallopt's int holds


def keep_freed_blocks() -> bool:
    """Has glibc keep freed blocks of up to 2 GiB for the next allocation.

    Otherwise the tensors of each iteration on a CPU are mapped anew, and the kernel clears them page by page. Settings of the
    user's (`MALLOC_…`, `GLIBC_TUNABLES`) stand; other C libraries have no such thresholds.

    Returns:
        Whether it was set.
    """
    of_user = any(name.startswith('MALLOC_') for name in os.environ) or 'glibc.malloc' in os.environ.get('GLIBC_TUNABLES', '')
    if of_user or platform.libc_ver()[0] != 'glibc':
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Both, or none: a heap that grew by large blocks would be trimmed again after each of them.
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST) and mallopt(_M_TRIM_THRESHOLD, _LARGEST))
