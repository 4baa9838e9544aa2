select employee_id, salary + 10 as raised from {{ ref('employees') }}
