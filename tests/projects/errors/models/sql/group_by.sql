select department, salary
from {{ ref('employees') }}
group by department
