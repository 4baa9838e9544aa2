with payroll as (
    select * from {{ ref('stg_payroll') }}
)

select sum(salary) as total
from payroll
