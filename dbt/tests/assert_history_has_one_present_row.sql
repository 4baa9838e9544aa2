with present as (

    select
        employee_id,
        count(*) as present_rows
    from {{ ref('employee_history') }}
    where dbt_valid_to is null
    group by employee_id

),

employees as (

    select employee_id from {{ ref('dim_employee') }}

)

select
    employees.employee_id,
    present.present_rows
from employees
left join present
    on employees.employee_id = present.employee_id
where
    present.employee_id is null
    or present.present_rows <> 1
