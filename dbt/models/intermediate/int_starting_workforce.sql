{{ config(meta={'reads_relation': 'fct_workforce_snapshot'}) }}

{#- The first year starts from the census, each later one from the year before it in the snapshot
    table, which is built downstream of this model: hence no ref(). -#}
{%- set columns = [
    'employee_id', 'birth_date', 'hire_date', 'level_start_date', 'department_code', 'level_id',
    'work_location', 'annual_compensation'
] -%}
{%- set snapshot = none if is_start_year() else workforce_snapshot_relation() -%}

with baseline as (

    select * from {{ ref('int_baseline_workforce') }}

),

starting_workforce as (

    {%- if snapshot is not none %}

    select
        {{ columns | join(',\n        ') }}
    from {{ snapshot }}
    where
        simulation_year = {{ simulation_year() - 1 }}
        and employment_status = 'active'

    {%- else %}

    select
        {{ columns | join(',\n        ') }}
    from baseline
    {%- if not is_start_year() %}
    -- no year has been simulated yet, so this one has nothing to start from
    where false
    {%- endif %}

    {%- endif %}

)

select * from starting_workforce
