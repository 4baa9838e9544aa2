with source as (

    select * from {{ ref('seed_job_levels') }}

),

with_hiring_range as (

    select
        level_id,
        level_name,
        compensation_minimum,
        compensation_midpoint,
        compensation_maximum,
        termination_multiplier,
        new_hire_share,
        -- a draw in [from, to) hires at this level
        coalesce(
            sum(new_hire_share) over (
                order by level_id rows between unbounded preceding and 1 preceding
            ),
            0
        ) as hiring_draw_from,
        sum(new_hire_share) over (
            order by level_id rows between unbounded preceding and current row
        ) as hiring_draw_to
    from source

)

select * from with_hiring_range
