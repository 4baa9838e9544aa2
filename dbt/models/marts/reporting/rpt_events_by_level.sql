with events as (

    select * from {{ ref('fct_yearly_events') }}

),

job_levels as (

    select * from {{ ref('dim_job_level') }}

),

counted as (

    select
        simulation_year,
        from_level_id as level_id,
        cast(sum(case when event_type = 'hire' then 1 else 0 end) as integer) as hires,
        cast(sum(case when event_type = 'termination' then 1 else 0 end) as integer) as terminations,
        cast(sum(case when event_type = 'promotion' then 1 else 0 end) as integer) as promotions,
        cast(sum(case when event_type = 'merit_raise' then 1 else 0 end) as integer) as merit_raises,
        cast(
            sum(
                case
                    when event_type in ('merit_raise', 'cost_of_living_raise', 'promotion')
                        then new_compensation - previous_compensation
                    else 0
                end
            )
            as decimal(16, 2)
        ) as raises_amount
    from events
    group by simulation_year, from_level_id

)

select
    counted.simulation_year,
    counted.level_id,
    job_levels.level_name,
    counted.hires,
    counted.terminations,
    counted.promotions,
    counted.merit_raises,
    counted.raises_amount
from counted
inner join job_levels
    on counted.level_id = job_levels.level_id
