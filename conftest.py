"""Pytest starts here; the import makes the package `ssl` visible beside the standard library's module."""

import trunkline.sslpath  # noqa: F401
