select employee_id
from {{ ref('employees') }} as a
join {{ ref('employees') }} as b on a.salary = b.salary
