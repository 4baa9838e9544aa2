with departments as (

    select * from {{ ref('stg_departments') }}

)

select
    department_code,
    department_name,
    division,
    cost_center
from departments
