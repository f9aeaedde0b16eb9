"""The farm: one YAML matrix in, every image it describes and a Parquet catalog out.

The names below are the whole Python interface; each behaves as the command of the same name.
They are resolved on first use, so `import farm` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from farm.version import __version__

if TYPE_CHECKING:
    from farm.api import catalog, expand, load_job, plan, sheet, show, submit

__all__ = ["__version__", "catalog", "expand", "load_job", "plan", "sheet", "show", "submit"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from farm import api

        return getattr(api, name)
    raise AttributeError(f"module 'farm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
