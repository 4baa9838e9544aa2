with starting_workforce as (

    select
        department_code,
        count(*) as starting_headcount
    from {{ ref('int_starting_workforce') }}
    group by department_code

),

terminations as (

    select
        starting_workforce.department_code,
        count(*) as leavers
    from {{ ref('int_terminations') }} as terminations
    inner join {{ ref('int_starting_workforce') }} as starting_workforce
        on terminations.employee_id = starting_workforce.employee_id
    group by starting_workforce.department_code

),

hiring_plan as (

    select * from {{ ref('stg_hiring_plan') }}

),

period as (

    select * from {{ ref('int_simulation_period') }}

),

planned as (

    select
        hiring_plan.department_code,
        hiring_plan.new_hire_termination_rate,
        coalesce(starting_workforce.starting_headcount, 0) as starting_headcount,
        coalesce(terminations.leavers, 0) as leavers,
        cast(
            round(
                coalesce(starting_workforce.starting_headcount, 0)
                * (cast({{ var('target_growth_rate') }} as decimal(6, 4)) + hiring_plan.growth_adjustment),
                0
            )
            as integer
        ) as growth_hires,
        cast(
            round(coalesce(terminations.leavers, 0) * hiring_plan.replacement_rate, 0) as integer
        ) as replacement_hires
    from hiring_plan
    inner join period
        on hiring_plan.plan_year = period.assumption_year
    left join starting_workforce
        on hiring_plan.department_code = starting_workforce.department_code
    left join terminations
        on hiring_plan.department_code = terminations.department_code

)

-- some of the year's hires leave within it: as many more are hired
select
    department_code,
    starting_headcount,
    leavers,
    growth_hires,
    replacement_hires,
    cast(
        floor(
            greatest(growth_hires + replacement_hires, 0)
            / cast(1 - new_hire_termination_rate as double precision)
            + 0.5
        )
        as integer
    ) as planned_hires
from planned
