with promotions as (

    select * from {{ ref('int_promotions') }}

),

starting_workforce as (

    select * from {{ ref('int_starting_workforce') }}

),

cost_of_living_raises as (

    select * from {{ ref('int_cost_of_living_raises') }}

),

merit_raises as (

    select * from {{ ref('int_merit_raises') }}

),

comp_levers as (

    select * from {{ ref('stg_comp_levers') }}

),

period as (

    select * from {{ ref('int_simulation_period') }}

),

rated as (

    select
        promotions.employee_id,
        promotions.promotion_date as raise_date,
        promotions.from_level_id,
        promotions.to_level_id,
        comp_levers.promotion_raise_rate as raise_rate,
        coalesce(
            merit_raises.new_compensation,
            cost_of_living_raises.new_compensation,
            starting_workforce.annual_compensation
        ) as previous_compensation
    from promotions
    inner join starting_workforce
        on promotions.employee_id = starting_workforce.employee_id
    cross join period
    inner join comp_levers
        on
            promotions.from_level_id = comp_levers.level_id
            and period.assumption_year = comp_levers.lever_year
    left join cost_of_living_raises
        on promotions.employee_id = cost_of_living_raises.employee_id
    left join merit_raises
        on promotions.employee_id = merit_raises.employee_id

)

select
    employee_id,
    raise_date,
    from_level_id,
    to_level_id,
    raise_rate,
    previous_compensation,
    {{ simulation_utils.money('previous_compensation * (1 + raise_rate)') }} as new_compensation
from rated
