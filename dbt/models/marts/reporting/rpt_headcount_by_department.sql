with workforce as (

    select * from {{ ref('fct_workforce_snapshot') }}

),

departments as (

    select * from {{ ref('dim_department') }}

),

counted as (

    select
        simulation_year,
        department_code,
        cast(sum(case when is_new_hire then 0 else 1 end) as integer) as starting_headcount,
        cast(sum(case when is_new_hire then 1 else 0 end) as integer) as hires,
        cast(sum(case when employment_status = 'terminated' then 1 else 0 end) as integer) as terminations,
        cast(sum(case when employment_status = 'active' then 1 else 0 end) as integer) as ending_headcount
    from workforce
    group by simulation_year, department_code

)

select
    counted.simulation_year,
    counted.department_code,
    departments.department_name,
    departments.division,
    counted.starting_headcount,
    counted.hires,
    counted.terminations,
    counted.ending_headcount
from counted
inner join departments
    on counted.department_code = departments.department_code
