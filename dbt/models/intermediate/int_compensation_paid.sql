with workforce as (

    select * from {{ ref('int_ending_workforce') }}

),

raises as (

    select * from {{ ref('int_yearly_events') }}
    where event_type in ('cost_of_living_raise', 'merit_raise', 'promotion')

),

period as (

    select * from {{ ref('int_simulation_period') }}

),

-- what was paid from the start, and what each raise added from its day on
rates_from as (

    select
        workforce.employee_id,
        case when workforce.is_new_hire then workforce.hire_date else period.period_start end as paid_from,
        workforce.starting_compensation as annual_amount
    from workforce
    cross join period

    union all

    select
        employee_id,
        event_date as paid_from,
        new_compensation - previous_compensation as annual_amount
    from raises

),

-- the last day of employment is paid
cent_days as (

    select
        rates_from.employee_id,
        sum(
            rates_from.annual_amount * 100
            * (coalesce(workforce.termination_date + 1, period.next_period_start) - rates_from.paid_from)
        ) as cent_days
    from rates_from
    inner join workforce
        on rates_from.employee_id = workforce.employee_id
    cross join period
    group by rates_from.employee_id

)

select
    cent_days.employee_id,
    cast(
        cast(floor(cast(cent_days.cent_days as double precision) / period.days_in_period + 0.5) as bigint)
        * cast(0.01 as decimal(3, 2))
        as decimal(12, 2)
    ) as compensation_paid
from cent_days
cross join period
