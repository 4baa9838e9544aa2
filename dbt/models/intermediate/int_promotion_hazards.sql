with workforce as (

    select * from {{ ref('int_workforce_bands') }}

),

hazards as (

    select * from {{ ref('stg_promotion_hazards') }}

)

-- the top level has no hazard: nobody is promoted out of it
select
    workforce.employee_id,
    workforce.level_id,
    cast(
        least(
            hazards.annual_hazard * cast({{ var('promotion_multiplier') }} as decimal(6, 4)),
            1
        )
        as decimal(8, 6)
    ) as promotion_hazard
from workforce
inner join hazards
    on
        workforce.level_id = hazards.level_id
        and workforce.time_in_level_band = hazards.time_in_level_band
