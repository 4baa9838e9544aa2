def model(dbt, session):
    dbt.config(materialized="table")
    return session.sql("select salry from main.employees")
