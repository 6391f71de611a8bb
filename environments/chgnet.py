# /// script
# requires-python = ">=3.10"
# dependencies = ["chgnet>=0.4.2", "ase>=3.23"]
# ///
from chgnet.model import CHGNet, CHGNetCalculator


def setup(model: str, device: str = "cuda", **kwargs):
    return CHGNetCalculator(CHGNet.load(), use_device=device)
