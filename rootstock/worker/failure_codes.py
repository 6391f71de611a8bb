"""What kind of failure an exception is."""

from __future__ import annotations

import errno

from ase.calculators.calculator import PropertyNotImplementedError

from rootstock.worker.channel.failures import FailureCode
from rootstock.worker.device_memory import is_out_of_memory

# Of a file system or a network: neither the structure nor the model is to blame.
_OUTSIDE = {
    getattr(errno, name)
    for name in (
        "EIO", "ESTALE", "ENOSPC", "EDQUOT", "EROFS", "EMFILE", "ENFILE", "ENOMEM", "ETIMEDOUT", "EREMOTEIO",
        "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ECONNRESET", "ENOTCONN", "ESHUTDOWN",
    )
    if hasattr(errno, name)
}  # fmt: skip


def code_of(error: BaseException) -> FailureCode:
    """Return what kind of failure an exception of a model is, if the GPU is still there."""
    if is_out_of_memory(error):
        return FailureCode.OUT_OF_MEMORY
    if isinstance(error, PropertyNotImplementedError):
        return FailureCode.UNSUPPORTED_PROPERTY
    if isinstance(error, OSError) and error.errno in _OUTSIDE:
        return FailureCode.INPUT_OUTPUT
    return FailureCode.MODEL
