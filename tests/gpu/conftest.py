"""The builds, and the libraries without Rootstock, of the tests of models."""

from tests.models.conftest import build, direct, make_model

__all__ = ["build", "direct", "make_model"]
