"""Versions of installed packages, by which results that may differ are told apart."""

import importlib.metadata
from collections.abc import Iterable


def installed_versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Return {package: version}, with None for a package that is not installed."""
    return {package: _installed_version(package) for package in packages}


def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
