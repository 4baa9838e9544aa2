with starting_workforce as (

    select * from {{ ref('int_starting_workforce') }}

),

hires as (

    select * from {{ ref('int_hires') }}

),

period as (

    select * from {{ ref('int_simulation_period') }}

),

raises as (

    select
        employee_id,
        'cost_of_living_raise' as event_type,
        cast(null as varchar) as event_reason,
        raise_date as event_date,
        raise_rate,
        previous_compensation,
        new_compensation,
        cast(null as integer) as to_level_id
    from {{ ref('int_cost_of_living_raises') }}

    union all

    select
        employee_id,
        'merit_raise' as event_type,
        performance_rating as event_reason,
        raise_date as event_date,
        raise_rate,
        previous_compensation,
        new_compensation,
        cast(null as integer) as to_level_id
    from {{ ref('int_merit_raises') }}

    union all

    select
        employee_id,
        'promotion' as event_type,
        cast(null as varchar) as event_reason,
        raise_date as event_date,
        raise_rate,
        previous_compensation,
        new_compensation,
        to_level_id
    from {{ ref('int_promotion_raises') }}

),

terminations as (

    select * from {{ ref('int_terminations') }}

    union all

    select * from {{ ref('int_new_hire_terminations') }}

),

-- who the year's events happen to, as the year (or the employment) began
people as (

    select employee_id, department_code, level_id from starting_workforce

    union all

    select employee_id, department_code, level_id from hires

),

events as (

    select * from raises

    union all

    select
        employee_id,
        'hire' as event_type,
        cast(null as varchar) as event_reason,
        hire_date as event_date,
        cast(null as decimal(6, 4)) as raise_rate,
        cast(null as decimal(12, 2)) as previous_compensation,
        annual_compensation as new_compensation,
        cast(null as integer) as to_level_id
    from hires

    union all

    select
        employee_id,
        'termination' as event_type,
        termination_reason as event_reason,
        termination_date as event_date,
        cast(null as decimal(6, 4)) as raise_rate,
        cast(null as decimal(12, 2)) as previous_compensation,
        cast(null as decimal(12, 2)) as new_compensation,
        cast(null as integer) as to_level_id
    from terminations

)

select
    events.employee_id || '-' || cast(period.simulation_year as varchar) || '-' || events.event_type as event_id,
    period.simulation_year,
    period.scenario_id,
    events.employee_id,
    events.event_type,
    events.event_reason,
    events.event_date,
    people.department_code,
    people.level_id as from_level_id,
    coalesce(events.to_level_id, people.level_id) as to_level_id,
    events.raise_rate,
    events.previous_compensation,
    events.new_compensation
from events
inner join people
    on events.employee_id = people.employee_id
cross join period
