select
    e.employee_id,
    e.salry
from {{ ref('employees') }} as e
