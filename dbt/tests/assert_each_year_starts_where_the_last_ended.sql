-- up to the simulated year: later ones, left from an earlier pass, are about to be replaced
with ended as (

    select
        simulation_year + 1 as simulation_year,
        employee_id,
        annual_compensation
    from {{ ref('fct_workforce_snapshot') }}
    where
        employment_status = 'active'
        and simulation_year < {{ simulation_year() }}

),

started as (

    select
        simulation_year,
        employee_id,
        starting_compensation
    from {{ ref('fct_workforce_snapshot') }}
    where
        not is_new_hire
        and simulation_year > {{ var('start_year') }}
        and simulation_year <= {{ simulation_year() }}

)

select
    coalesce(ended.simulation_year, started.simulation_year) as simulation_year,
    ended.employee_id as ended_employee_id,
    started.employee_id as started_employee_id
from ended
full outer join started
    on
        ended.simulation_year = started.simulation_year
        and ended.employee_id = started.employee_id
where
    ended.employee_id is null
    or started.employee_id is null
    or ended.annual_compensation <> started.starting_compensation
