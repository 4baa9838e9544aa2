select * from no_such_schema.payroll
