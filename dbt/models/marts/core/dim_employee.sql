-- everybody in the census or hired since, as the last simulated year left them
with census as (

    select * from {{ ref('stg_census') }}

),

snapshots as (

    select
        *,
        row_number() over (partition by employee_id order by simulation_year desc) as recency
    from {{ ref('fct_workforce_snapshot') }}

),

latest as (

    select * from snapshots
    where recency = 1

),

left_before_the_simulation as (

    select * from census
    where not is_active

)

select
    employee_id,
    birth_date,
    hire_date,
    level_start_date,
    department_code,
    level_id,
    work_location,
    annual_compensation,
    employment_status,
    termination_date,
    simulation_year as last_simulation_year,
    cast(
        coalesce(last_change_date, cast(cast(simulation_year as varchar) || '-01-01' as date))
        as timestamp
    ) as last_changed_at
from latest

union all

select
    employee_id,
    birth_date,
    hire_date,
    level_start_date,
    department_code,
    level_id,
    work_location,
    annual_compensation,
    employment_status,
    termination_date,
    cast(null as integer) as last_simulation_year,
    cast(termination_date as timestamp) as last_changed_at
from left_before_the_simulation
