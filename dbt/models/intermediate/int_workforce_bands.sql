with starting_workforce as (

    select * from {{ ref('int_starting_workforce') }}

),

period as (

    select * from {{ ref('int_simulation_period') }}

),

measured as (

    select
        starting_workforce.employee_id,
        starting_workforce.department_code,
        starting_workforce.level_id,
        {{ simulation_utils.completed_years('starting_workforce.birth_date', 'period.period_start') }} as age_years,
        {{ simulation_utils.completed_years('starting_workforce.hire_date', 'period.period_start') }} as tenure_years,
        {{ simulation_utils.completed_years('starting_workforce.level_start_date', 'period.period_start') }} as years_in_level
    from starting_workforce
    cross join period

)

select
    *,
    {{ simulation_utils.age_band('age_years') }} as age_band,
    {{ simulation_utils.tenure_band('tenure_years') }} as tenure_band,
    {{ simulation_utils.time_in_level_band('years_in_level') }} as time_in_level_band
from measured
