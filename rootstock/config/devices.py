"""Names of devices, as torch has them. Any other reaches ``setup()`` as it is, unless it looks like one of these."""

from __future__ import annotations

from rootstock.config.model_string import did_you_mean
from rootstock.errors import ConfigurationError

_DEVICES = ("cpu", "cuda", "xpu", "mps", "gpu", "tpu", "npu", "hpu", "hip", "rocm")


def check_device_name(device: str) -> None:
    """Refuse a misspelt device: a model of numpy alone would compute on the processor all the same.

    Raises
    ------
    ConfigurationError
        With what may have been meant.
    """
    kind = device.lower().partition(":")[0].strip()
    if not kind:
        raise ConfigurationError(f"device={device!r} names no device.", "For example: device='cpu'")
    if kind not in _DEVICES and (meant := did_you_mean(kind, _DEVICES)):
        raise ConfigurationError(f"device={device!r} is unknown.{meant}")
