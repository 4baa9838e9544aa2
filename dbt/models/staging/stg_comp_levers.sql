with source as (

    select * from {{ ref('seed_comp_levers') }}

),

selected as (

    select
        lever_year,
        level_id,
        merit_rate,
        promotion_raise_rate,
        cola_rate,
        new_hire_compensation
    from source

)

select * from selected
