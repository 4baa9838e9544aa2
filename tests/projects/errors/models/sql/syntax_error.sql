select
    employee_id,
    salary,
form {{ ref('employees') }}
where salary > 0
