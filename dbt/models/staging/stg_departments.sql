with source as (

    select * from {{ ref('seed_departments') }}

),

selected as (

    select
        department_code,
        department_name,
        division,
        cost_center
    from source

)

select * from selected
