"""Samplers as numbers: compiled from diffusers' schedulers, or written by hand.

`table_for` answers with a `SamplerTable`; whoever renders needs nothing else of a sampler.
"""

from farm.render.tables.compiler import table_for
from farm.render.tables.table import SamplerTable

__all__ = ["SamplerTable", "table_for"]
