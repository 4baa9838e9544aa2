-- of those the year started with; the year's own hires have no band yet
with workforce as (

    select * from {{ ref('fct_workforce_snapshot') }}
    where not is_new_hire

),

counted as (

    select
        simulation_year,
        starting_tenure_band as tenure_band,
        cast(count(*) as integer) as starting_headcount,
        cast(sum(case when employment_status = 'terminated' then 1 else 0 end) as integer) as terminations
    from workforce
    group by simulation_year, starting_tenure_band

)

select
    *,
    {{ simulation_utils.ratio('terminations', 'starting_headcount') }} as turnover_rate
from counted
