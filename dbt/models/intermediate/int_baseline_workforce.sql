with census as (

    select * from {{ ref('stg_census') }}
    where is_active

)

select
    employee_id,
    birth_date,
    hire_date,
    level_start_date,
    department_code,
    level_id,
    work_location,
    annual_compensation
from census
