with source as (

    select * from {{ ref('seed_hiring_plan') }}

),

selected as (

    select
        plan_year,
        department_code,
        growth_adjustment,
        replacement_rate,
        new_hire_termination_rate
    from source

)

select * from selected
