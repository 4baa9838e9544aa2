select employee_id, department, salary from {{ ref('employees') }}
