select 1 as employee_id, -5 as salary
