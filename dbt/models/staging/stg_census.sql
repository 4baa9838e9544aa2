with source as (

    select * from {{ ref('seed_census') }}

),

selected as (

    select
        employee_id,
        birth_date,
        hire_date,
        level_start_date,
        department_code,
        level_id,
        work_location,
        annual_compensation,
        employment_status,
        termination_date,
        employment_status = 'active' as is_active
    from source

)

select * from selected
