def model(dbt, session):
    dbt.config(materialized="table")
    totals = dbt.ref("customer_totals")
    return totals.aggregate("count(*) as customers, sum(total) as total")
