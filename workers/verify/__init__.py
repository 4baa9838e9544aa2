"""Whether dbt-relay gives what plain dbt gives: the same commands on two copies, and every difference.

The comparison is told in `pair`; what may differ, and how it is compared all the same, in `rules`.
"""
