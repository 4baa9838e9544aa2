with source as (

    select * from {{ ref('seed_promotion_hazards') }}

),

selected as (

    select
        level_id,
        time_in_level_band,
        annual_hazard
    from source

)

select * from selected
