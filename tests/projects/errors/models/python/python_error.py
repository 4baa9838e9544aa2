def model(dbt, session):
    dbt.config(materialized="table")
    rates = {"engineering": 0.02}
    return session.sql(f"select {rates['sales']} as rate")
