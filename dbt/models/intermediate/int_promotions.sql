with hazards as (

    select * from {{ ref('int_promotion_hazards') }}

),

terminations as (

    select * from {{ ref('int_terminations') }}

),

promoted as (

    select
        employee_id,
        level_id as from_level_id,
        level_id + 1 as to_level_id,
        {{ simulation_date(month=var('promotion_effective_month')) }} as promotion_date
    from hazards
    where
        {{ simulation_utils.uniform_draw('employee_id', 'promotion') }}
        < cast(promotion_hazard as double precision)

)

-- only those still employed on the day
select promoted.*
from promoted
left join terminations
    on promoted.employee_id = terminations.employee_id
where
    terminations.employee_id is null
    or terminations.termination_date > promoted.promotion_date
