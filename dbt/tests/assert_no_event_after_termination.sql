with events as (

    select * from {{ ref('fct_yearly_events') }}
    where simulation_year <= {{ simulation_year() }}

),

terminations as (

    select
        employee_id,
        event_date as termination_date
    from events
    where event_type = 'termination'

)

select
    events.event_id,
    events.event_date,
    terminations.termination_date
from events
inner join terminations
    on events.employee_id = terminations.employee_id
where
    events.event_date > terminations.termination_date
    or (
        events.event_type <> 'termination'
        and events.event_date = terminations.termination_date
    )
