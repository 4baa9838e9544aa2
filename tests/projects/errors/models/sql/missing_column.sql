select
    employee_id,
    nmae,
    salary
from {{ ref('employees') }}
