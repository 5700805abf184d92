"""Search spaces: one YAML file a dataset, data only. `load` reads one."""

from search_spaces.conditions import corners, decide, prune
from search_spaces.schema import RESERVED, Domain, SearchSpace, load, load_space_json, load_template, names, read_point

__all__ = [
    "RESERVED",
    "Domain",
    "SearchSpace",
    "corners",
    "decide",
    "load",
    "load_space_json",
    "load_template",
    "names",
    "prune",
    "read_point",
]
