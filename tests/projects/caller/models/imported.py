def model(dbt, session):
    import relay_test_code

    relay_test_code.uses += 1
    return session.sql(f"select '{relay_test_code.VALUE}' as value, {relay_test_code.uses} as uses")
