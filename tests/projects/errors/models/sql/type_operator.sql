select employee_id
from {{ ref('employees') }}
where updated_at > 5
