with census as (

    select employee_id, annual_compensation
    from {{ ref('stg_census') }}
    where is_active

),

first_year as (

    select employee_id, starting_compensation
    from {{ ref('fct_workforce_snapshot') }}
    where
        simulation_year = {{ var('start_year') }}
        and not is_new_hire

)

select
    census.employee_id as census_employee_id,
    first_year.employee_id as first_year_employee_id
from census
full outer join first_year
    on census.employee_id = first_year.employee_id
where
    census.employee_id is null
    or first_year.employee_id is null
    or census.annual_compensation <> first_year.starting_compensation
