select 1 as employee_id, 'ninety' as salary, true as active
