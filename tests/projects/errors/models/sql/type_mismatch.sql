select
    employee_id,
    cast(name as integer) as name_number
from {{ ref('employees') }}
