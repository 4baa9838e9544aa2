select salary / (employee_id - employee_id) as share from {{ ref('employees') }}
