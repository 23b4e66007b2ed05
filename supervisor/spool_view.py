"""A job's input as a worker sees it, without the supervisor's event loop."""

import io
import mmap

SpoolView = mmap.mmap | io.BytesIO
"""A worker's view of a spool: a read-only, seekable file over shared pages."""


def open_view(fd: int, size: int) -> SpoolView:
    """View the `size` bytes behind `fd`; the descriptor may be closed afterwards."""
    if size == 0:
        return io.BytesIO()  # an empty file cannot be mapped
    return mmap.mmap(fd, size, prot=mmap.PROT_READ)
