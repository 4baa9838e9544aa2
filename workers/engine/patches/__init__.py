"""Functions of dbt and its libraries that a worker replaces: listed in `catalog`, put in place by `registry`."""
