select employee_id, salary from {{ ref('employees') }}
