"""Search spaces: one YAML file a dataset, data only. `load` reads one."""

from search_spaces.schema import Domain, SearchSpace, load, load_space_json, load_template, names

__all__ = ["Domain", "SearchSpace", "load", "load_space_json", "load_template", "names"]
