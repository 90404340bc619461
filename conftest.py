"""Pytest starts here; the import makes the package `ssl` visible beside the standard library's module."""

from hypothesis import settings

import trunkline.sslpath  # noqa: F401

# How long an example takes says more about the machine's other work than about the code.
settings.register_profile("trunkline", deadline=None)
settings.load_profile("trunkline")
