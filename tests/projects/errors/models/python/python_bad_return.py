def model(dbt, session):
    dbt.config(materialized="table")
    return 5
