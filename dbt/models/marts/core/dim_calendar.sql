-- the years the assumptions plan for
with planned_years as (

    select distinct lever_year as simulation_year
    from {{ ref('stg_comp_levers') }}

),

dated as (

    select
        simulation_year,
        cast(cast(simulation_year as varchar) || '-01-01' as date) as year_start_date,
        cast(cast(simulation_year as varchar) || '-12-31' as date) as year_end_date
    from planned_years

)

select
    simulation_year,
    simulation_year - {{ var('start_year') }} + 1 as simulation_year_number,
    year_start_date,
    year_end_date,
    cast(year_end_date - year_start_date as integer) + 1 as days_in_year
from dated
