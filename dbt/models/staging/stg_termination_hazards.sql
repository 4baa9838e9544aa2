with source as (

    select * from {{ ref('seed_termination_hazards') }}

),

selected as (

    select
        tenure_band,
        age_band,
        annual_hazard
    from source

)

select * from selected
