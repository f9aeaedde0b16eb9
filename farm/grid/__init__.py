"""The grid: a job's matrix as a lazy sequence of tasks.

`tree` finds cells by arithmetic, `values` fills in what the cells say, `identity` names them in
bulk, and `space` is the sequence that everybody else sees.
"""

from farm.grid.identity import Digests, Keys
from farm.grid.space import Column, Flags, Places, TaskSpace, empty_places, expand, places_of
from farm.grid.values import Codes

__all__ = [
    "Codes",
    "Column",
    "Digests",
    "Flags",
    "Keys",
    "Places",
    "TaskSpace",
    "empty_places",
    "expand",
    "places_of",
]
