with starting_workforce as (

    select
        *,
        false as is_new_hire
    from {{ ref('int_starting_workforce') }}

),

hires as (

    select
        employee_id,
        birth_date,
        hire_date,
        hire_date as level_start_date,
        department_code,
        level_id,
        work_location,
        annual_compensation,
        true as is_new_hire
    from {{ ref('int_hires') }}

),

everybody as (

    select * from starting_workforce

    union all

    select * from hires

),

events as (

    select * from {{ ref('int_yearly_events') }}

),

-- the last raise of the year is the one that stands
changes as (

    select
        employee_id,
        max(case when event_type = 'termination' then event_date end) as termination_date,
        max(case when event_type = 'promotion' then event_date end) as promotion_date,
        max(case when event_type = 'promotion' then to_level_id end) as promoted_to_level_id,
        coalesce(
            max(case when event_type = 'promotion' then new_compensation end),
            max(case when event_type = 'merit_raise' then new_compensation end),
            max(case when event_type = 'cost_of_living_raise' then new_compensation end)
        ) as new_compensation,
        max(event_date) as last_change_date
    from events
    group by employee_id

)

select
    everybody.employee_id,
    everybody.birth_date,
    everybody.hire_date,
    coalesce(changes.promotion_date, everybody.level_start_date) as level_start_date,
    everybody.department_code,
    coalesce(changes.promoted_to_level_id, everybody.level_id) as level_id,
    everybody.work_location,
    everybody.is_new_hire,
    case when changes.termination_date is null then 'active' else 'terminated' end as employment_status,
    changes.termination_date,
    everybody.annual_compensation as starting_compensation,
    coalesce(changes.new_compensation, everybody.annual_compensation) as annual_compensation,
    changes.last_change_date
from everybody
left join changes
    on everybody.employee_id = changes.employee_id
