def model(dbt, session):
    dbt.config(materialized="table")
    import no_such_package

    return no_such_package.load()
