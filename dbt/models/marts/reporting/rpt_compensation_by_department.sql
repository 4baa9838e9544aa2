with workforce as (

    select * from {{ ref('fct_workforce_snapshot') }}

),

departments as (

    select * from {{ ref('dim_department') }}

),

summed as (

    select
        simulation_year,
        department_code,
        cast(sum(case when employment_status = 'active' then 1 else 0 end) as integer) as ending_headcount,
        cast(
            sum(case when employment_status = 'active' then annual_compensation else 0 end)
            as decimal(16, 2)
        ) as annualized_compensation,
        cast(sum(compensation_paid) as decimal(16, 2)) as compensation_paid
    from workforce
    group by simulation_year, department_code

)

select
    summed.simulation_year,
    summed.department_code,
    departments.department_name,
    departments.division,
    summed.ending_headcount,
    summed.annualized_compensation,
    summed.compensation_paid,
    cast(
        {{ simulation_utils.ratio('summed.annualized_compensation', 'summed.ending_headcount') }}
        as decimal(12, 2)
    ) as average_compensation
from summed
inner join departments
    on summed.department_code = departments.department_code
