"""Pay of the year-end workforce by year and level: percentiles and the Gini coefficient."""

from itertools import groupby

COLUMNS = {
    "simulation_year": "integer",
    "level_id": "integer",
    "headcount": "integer",
    "pay_p10": "decimal(12, 2)",
    "pay_p25": "decimal(12, 2)",
    "pay_p50": "decimal(12, 2)",
    "pay_p75": "decimal(12, 2)",
    "pay_p90": "decimal(12, 2)",
    "gini_coefficient": "decimal(6, 4)",
}


def percentile(ordered, share):
    """The value a share of the way through an ordered list, interpolated."""
    position = (len(ordered) - 1) * share
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def gini(ordered):
    """The Gini coefficient of an ordered list: 0 when everybody is paid the same."""
    count = len(ordered)
    weighted = sum(rank * amount for rank, amount in enumerate(ordered, start=1))
    return 2 * weighted / (count * sum(ordered)) - (count + 1) / count


def model(dbt, session):
    dbt.config(materialized="table")

    pay = (
        dbt.ref("fct_workforce_snapshot")
        .filter("employment_status = 'active'")
        .project("simulation_year, level_id, cast(annual_compensation as double) as amount")
        .order("simulation_year, level_id, amount")
        .fetchall()
    )

    rows = []
    for (year, level), group in groupby(pay, key=lambda row: row[:2]):
        amounts = [row[2] for row in group]
        values = [percentile(amounts, share) for share in (0.1, 0.25, 0.5, 0.75, 0.9)]
        rows.append(
            (year, level, len(amounts), *(round(v, 2) for v in values), round(gini(amounts), 4))
        )

    names = ", ".join(COLUMNS)
    columns = ", ".join(f"cast({name} as {kind}) as {name}" for name, kind in COLUMNS.items())
    if not rows:
        nulls = ", ".join("null" for _ in COLUMNS)
        return session.sql(f"select {columns} from (values ({nulls})) as pay ({names}) limit 0")
    marks = ", ".join("(" + ", ".join("?" for _ in COLUMNS) + ")" for _ in rows)
    return session.sql(
        f"select {columns} from (values {marks}) as pay ({names})",
        params=[value for row in rows for value in row],
    )
