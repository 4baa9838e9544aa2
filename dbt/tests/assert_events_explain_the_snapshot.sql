with changes as (

    select
        employee_id,
        simulation_year,
        sum(
            case when event_type in ('cost_of_living_raise', 'merit_raise', 'promotion')
                then new_compensation - previous_compensation
            else 0 end
        ) as raised_by,
        max(to_level_id) as level_id,
        max(case when event_type = 'termination' then event_date end) as termination_date,
        max(case when event_type = 'hire' then new_compensation end) as hired_at
    from {{ ref('fct_yearly_events') }}
    group by employee_id, simulation_year

),

snapshot_rows as (

    select * from {{ ref('fct_workforce_snapshot') }}

)

select snapshot_rows.workforce_snapshot_id
from snapshot_rows
left join changes
    on
        snapshot_rows.employee_id = changes.employee_id
        and snapshot_rows.simulation_year = changes.simulation_year
where
    snapshot_rows.annual_compensation
    <> snapshot_rows.starting_compensation + coalesce(changes.raised_by, 0)
    or snapshot_rows.level_id <> coalesce(changes.level_id, snapshot_rows.level_id)
    or (snapshot_rows.employment_status = 'terminated') <> (changes.termination_date is not null)
    or snapshot_rows.is_new_hire <> (changes.hired_at is not null)
    or changes.hired_at <> snapshot_rows.starting_compensation
