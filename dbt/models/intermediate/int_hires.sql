with hiring_demand as (

    select * from {{ ref('int_hiring_demand') }}

),

job_levels as (

    select * from {{ ref('stg_job_levels') }}

),

comp_levers as (

    select * from {{ ref('stg_comp_levers') }}

),

period as (

    select * from {{ ref('int_simulation_period') }}

),

numbers as (

    {{ dbt.generate_series(9999) }}

),

-- one row a hire, numbered through the departments; EMP_260017 is the 17th hire of 2026
positions as (

    select
        hiring_demand.department_code,
        'EMP_' || cast(
            {{ simulation_year() % 100 }} * 10000
            + row_number() over (order by hiring_demand.department_code, numbers.generated_number)
            as varchar
        ) as employee_id
    from hiring_demand
    inner join numbers
        on numbers.generated_number <= hiring_demand.planned_hires

),

drawn as (

    select
        *,
        {{ simulation_utils.uniform_draw('employee_id', 'hire_level') }} as level_draw,
        {{ simulation_utils.uniform_draw('employee_id', 'hire_age') }} as age_draw,
        {{ simulation_utils.uniform_draw('employee_id', 'hire_location') }} as location_draw,
        {{ simulation_utils.uniform_draw('employee_id', 'hire_compensation') }} as compensation_draw
    from positions

)

select
    drawn.employee_id,
    drawn.department_code,
    job_levels.level_id,
    {{ simulation_utils.draw_date(
        'drawn.employee_id', 'hire_date', 'period.period_start', 'period.days_in_period'
    ) }} as hire_date,
    -- from 21 (and 2.5 years more a level) over 18 years, the younger ages more often
    period.period_start - cast(
        floor(365.25 * (18.5 + 2.5 * job_levels.level_id + 18 * drawn.age_draw * drawn.age_draw))
        as integer
    ) as birth_date,
    case
        when drawn.location_draw < 0.22 then 'Northeast'
        when drawn.location_draw < 0.42 then 'Midwest'
        when drawn.location_draw < 0.66 then 'South'
        when drawn.location_draw < 0.86 then 'West'
        else 'Remote'
    end as work_location,
    -- 92 % to 108 % of the level's rate for new hires
    {{ simulation_utils.money(
        'comp_levers.new_hire_compensation '
        ~ '* cast(920 + floor(drawn.compensation_draw * 161) as integer) * 0.001'
    ) }} as annual_compensation
from drawn
cross join period
inner join job_levels
    on
        drawn.level_draw >= cast(job_levels.hiring_draw_from as double precision)
        and drawn.level_draw < cast(job_levels.hiring_draw_to as double precision)
inner join comp_levers
    on
        job_levels.level_id = comp_levers.level_id
        and period.assumption_year = comp_levers.lever_year
