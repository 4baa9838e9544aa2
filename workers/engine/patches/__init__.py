"""The functions of dbt and its libraries that a worker replaces. `catalog` lists them; `registry` puts them in place."""
