with hires as (

    select * from {{ ref('int_hires') }}

),

hiring_plan as (

    select * from {{ ref('stg_hiring_plan') }}

),

period as (

    select * from {{ ref('int_simulation_period') }}

)

-- nobody leaves on the day of the hire, and nobody hired on the last day leaves
select
    hires.employee_id,
    {{ simulation_utils.draw_date(
        'hires.employee_id', 'new_hire_termination_date', 'hires.hire_date + 1',
        '(period.next_period_start - hires.hire_date - 1)'
    ) }} as termination_date,
    cast('new_hire_departure' as varchar) as termination_reason
from hires
cross join period
inner join hiring_plan
    on
        hires.department_code = hiring_plan.department_code
        and period.assumption_year = hiring_plan.plan_year
where
    period.next_period_start - hires.hire_date > 1
    and {{ simulation_utils.uniform_draw('hires.employee_id', 'new_hire_termination') }}
    < cast(hiring_plan.new_hire_termination_rate as double precision)
