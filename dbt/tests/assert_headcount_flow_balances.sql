-- the hires and terminations of the event table, against the headcounts of the snapshot table
with flow as (

    select
        simulation_year,
        sum(case when event_type = 'hire' then 1 else 0 end) as hires,
        sum(case when event_type = 'termination' then 1 else 0 end) as terminations
    from {{ ref('fct_yearly_events') }}
    group by simulation_year

),

headcount as (

    select * from {{ ref('rpt_headcount_by_year') }}

)

select
    headcount.simulation_year,
    headcount.starting_headcount,
    flow.hires,
    flow.terminations,
    headcount.ending_headcount
from headcount
left join flow
    on headcount.simulation_year = flow.simulation_year
where
    flow.simulation_year is null
    or headcount.starting_headcount + flow.hires - flow.terminations <> headcount.ending_headcount
