{{
    config(
        materialized='incremental',
        incremental_strategy='delete+insert',
        unique_key='simulation_year',
        on_schema_change='fail',
        full_refresh=(none if is_start_year() else false)
    )
}}

with workforce as (

    select * from {{ ref('int_ending_workforce') }}

),

compensation_paid as (

    select * from {{ ref('int_compensation_paid') }}

),

bands as (

    select * from {{ ref('int_workforce_bands') }}

),

period as (

    select * from {{ ref('int_simulation_period') }}

)

select
    cast(workforce.employee_id || '-' || cast(period.simulation_year as varchar) as varchar) as workforce_snapshot_id,
    cast(period.simulation_year as integer) as simulation_year,
    cast(period.scenario_id as varchar) as scenario_id,
    cast(workforce.employee_id as varchar) as employee_id,
    workforce.birth_date,
    workforce.hire_date,
    workforce.level_start_date,
    cast(workforce.department_code as varchar) as department_code,
    cast(workforce.level_id as integer) as level_id,
    cast(workforce.work_location as varchar) as work_location,
    workforce.is_new_hire,
    cast(bands.tenure_band as varchar) as starting_tenure_band,
    cast(workforce.employment_status as varchar) as employment_status,
    workforce.termination_date,
    cast(workforce.starting_compensation as decimal(12, 2)) as starting_compensation,
    cast(workforce.annual_compensation as decimal(12, 2)) as annual_compensation,
    cast(compensation_paid.compensation_paid as decimal(12, 2)) as compensation_paid,
    workforce.last_change_date
from workforce
inner join compensation_paid
    on workforce.employee_id = compensation_paid.employee_id
left join bands
    on workforce.employee_id = bands.employee_id
cross join period
