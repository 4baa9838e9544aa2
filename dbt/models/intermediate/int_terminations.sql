with hazards as (

    select * from {{ ref('int_termination_hazards') }}

),

period as (

    select * from {{ ref('int_simulation_period') }}

),

drawn as (

    select
        *,
        {{ simulation_utils.uniform_draw('employee_id', 'termination') }} as termination_draw,
        {{ simulation_utils.uniform_draw('employee_id', 'termination_reason') }} as reason_draw
    from hazards

)

select
    drawn.employee_id,
    {{ simulation_utils.draw_date(
        'drawn.employee_id', 'termination_date', 'period.period_start', 'period.days_in_period'
    ) }} as termination_date,
    case
        when drawn.age_years >= 60 and drawn.tenure_years >= 5 then 'retirement'
        when drawn.reason_draw < 0.22 then 'involuntary'
        else 'voluntary'
    end as termination_reason
from drawn
cross join period
where drawn.termination_draw < cast(drawn.termination_hazard as double precision)
