"""Client libraries that the core does not install, imported when a part of the platform asks for them.

Enters: nothing. Leaves: the module, or ``DependencyMissing`` that names the extra.
"""

from __future__ import annotations

import importlib
from typing import Any

from tidegate.errors import DependencyMissing

__all__ = ["driver"]


def driver(module: str) -> Any:
    """The imported module, such as ``redis``, ``psycopg`` or ``confluent_kafka.admin``."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise DependencyMissing(
            f"expected the package {package}, which is not installed: pip install 'tidegate[platform]'"
        ) from error
