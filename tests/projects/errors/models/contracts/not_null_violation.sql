select 1 as employee_id, cast(null as integer) as salary
