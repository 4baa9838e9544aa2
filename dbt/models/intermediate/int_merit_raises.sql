with starting_workforce as (

    select * from {{ ref('int_starting_workforce') }}

),

performance_ratings as (

    select * from {{ ref('int_performance_ratings') }}

),

cost_of_living_raises as (

    select * from {{ ref('int_cost_of_living_raises') }}

),

comp_levers as (

    select * from {{ ref('stg_comp_levers') }}

),

terminations as (

    select * from {{ ref('int_terminations') }}

),

period as (

    select * from {{ ref('int_simulation_period') }}

),

-- those hired before October of the year before, and still employed on the day
eligible as (

    select
        starting_workforce.employee_id,
        performance_ratings.performance_rating,
        {{ simulation_date(month=var('merit_effective_month')) }} as raise_date,
        coalesce(
            cost_of_living_raises.new_compensation, starting_workforce.annual_compensation
        ) as previous_compensation,
        comp_levers.merit_rate
    from starting_workforce
    inner join performance_ratings
        on starting_workforce.employee_id = performance_ratings.employee_id
    cross join period
    inner join comp_levers
        on
            starting_workforce.level_id = comp_levers.level_id
            and period.assumption_year = comp_levers.lever_year
    left join cost_of_living_raises
        on starting_workforce.employee_id = cost_of_living_raises.employee_id
    left join terminations
        on starting_workforce.employee_id = terminations.employee_id
    where
        starting_workforce.hire_date < {{ simulation_date(month=10, year_offset=-1) }}
        and (
            terminations.employee_id is null
            or terminations.termination_date > {{ simulation_date(month=var('merit_effective_month')) }}
        )

),

rated as (

    select
        *,
        cast(
            round(
                merit_rate
                * cast({{ var('merit_multiplier') }} as decimal(6, 4))
                * case performance_rating
                    when 'below' then 0.0
                    when 'meets' then 1.0
                    when 'exceeds' then 1.2
                    when 'outstanding' then 1.7
                end,
                4
            )
            as decimal(6, 4)
        ) as raise_rate
    from eligible

)

select
    employee_id,
    raise_date,
    performance_rating,
    raise_rate,
    previous_compensation,
    {{ simulation_utils.money('previous_compensation * (1 + raise_rate)') }} as new_compensation
from rated
where raise_rate > 0
