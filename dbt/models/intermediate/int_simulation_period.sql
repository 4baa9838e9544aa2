{{ config(materialized='ephemeral') }}

-- the simulated year in one row; years past the last one planned use the last one's assumptions
with planned_years as (

    select
        min(lever_year) as first_year,
        max(lever_year) as last_year
    from {{ ref('stg_comp_levers') }}

)

select
    {{ simulation_year() }} as simulation_year,
    cast('{{ var("scenario_id") }}' as varchar) as scenario_id,
    {{ simulation_date() }} as period_start,
    {{ simulation_date(year_offset=1) }} as next_period_start,
    cast({{ simulation_date(year_offset=1) }} - {{ simulation_date() }} as integer) as days_in_period,
    least(greatest({{ simulation_year() }}, first_year), last_year) as assumption_year
from planned_years
