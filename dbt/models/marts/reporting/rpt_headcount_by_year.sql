with workforce as (

    select * from {{ ref('fct_workforce_snapshot') }}

),

counted as (

    select
        simulation_year,
        scenario_id,
        cast(sum(case when is_new_hire then 0 else 1 end) as integer) as starting_headcount,
        cast(sum(case when is_new_hire then 1 else 0 end) as integer) as hires,
        cast(sum(case when employment_status = 'terminated' then 1 else 0 end) as integer) as terminations,
        cast(sum(case when employment_status = 'active' then 1 else 0 end) as integer) as ending_headcount
    from workforce
    group by simulation_year, scenario_id

)

select
    *,
    {{ simulation_utils.ratio('ending_headcount - starting_headcount', 'starting_headcount') }} as growth_rate,
    {{ simulation_utils.ratio('2 * terminations', 'starting_headcount + ending_headcount') }} as attrition_rate
from counted
