select 1 as employee_id union all select 1 as employee_id
