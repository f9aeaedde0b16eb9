"""Job files: from the YAML people write to the `Job` the machine runs, every problem at once."""

from farm.manifest.expression import Expression, match_mapping, parse_expression
from farm.manifest.job import (
    VAR_PREFIX,
    Axis,
    Block,
    ImageSettings,
    Job,
    Point,
    Product,
    Resources,
    Sample,
    SheetSettings,
    Union,
    Zip,
)
from farm.manifest.reader import SheetProblem, load
from farm.manifest.resolve import resolve_yaml
from farm.manifest.schema import job_schema, matrix_schema

__all__ = [
    "VAR_PREFIX",
    "Axis",
    "Block",
    "Expression",
    "ImageSettings",
    "Job",
    "Point",
    "Product",
    "Resources",
    "Sample",
    "SheetProblem",
    "SheetSettings",
    "Union",
    "Zip",
    "job_schema",
    "load",
    "match_mapping",
    "matrix_schema",
    "parse_expression",
    "resolve_yaml",
]
