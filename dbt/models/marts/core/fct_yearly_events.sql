{{
    config(
        materialized='incremental',
        incremental_strategy='delete+insert',
        unique_key='simulation_year',
        on_schema_change='fail',
        full_refresh=(none if is_start_year() else false)
    )
}}

with events as (

    select * from {{ ref('int_yearly_events') }}

)

select
    cast(event_id as varchar) as event_id,
    cast(simulation_year as integer) as simulation_year,
    cast(scenario_id as varchar) as scenario_id,
    cast(employee_id as varchar) as employee_id,
    cast(event_type as varchar) as event_type,
    cast(event_reason as varchar) as event_reason,
    event_date,
    cast(department_code as varchar) as department_code,
    cast(from_level_id as integer) as from_level_id,
    cast(to_level_id as integer) as to_level_id,
    cast(raise_rate as decimal(6, 4)) as raise_rate,
    cast(previous_compensation as decimal(12, 2)) as previous_compensation,
    cast(new_compensation as decimal(12, 2)) as new_compensation
from events
