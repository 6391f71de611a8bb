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
    if kind in _DEVICES:
        return
    letters = [name for name in _DEVICES if sorted(name) == sorted(kind)]  # cup: too short to be near by other measures
    if meant := did_you_mean(kind, _DEVICES) or (f" Did you mean {letters[0]!r}?" if letters else ""):
        raise ConfigurationError(f"device={device!r} is unknown.{meant}")
