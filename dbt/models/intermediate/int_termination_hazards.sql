with workforce as (

    select * from {{ ref('int_workforce_bands') }}

),

hazards as (

    select * from {{ ref('stg_termination_hazards') }}

),

job_levels as (

    select * from {{ ref('stg_job_levels') }}

),

joined as (

    select
        workforce.employee_id,
        workforce.age_years,
        workforce.tenure_years,
        hazards.annual_hazard
        * job_levels.termination_multiplier
        * cast({{ var('turnover_multiplier') }} as decimal(6, 4)) as hazard
    from workforce
    inner join hazards
        on
            workforce.tenure_band = hazards.tenure_band
            and workforce.age_band = hazards.age_band
    inner join job_levels
        on workforce.level_id = job_levels.level_id

)

select
    employee_id,
    age_years,
    tenure_years,
    cast(least(hazard, 1) as decimal(8, 6)) as termination_hazard
from joined
