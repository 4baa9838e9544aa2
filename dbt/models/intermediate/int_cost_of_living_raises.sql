with starting_workforce as (

    select * from {{ ref('int_starting_workforce') }}

),

comp_levers as (

    select * from {{ ref('stg_comp_levers') }}

),

terminations as (

    select * from {{ ref('int_terminations') }}

),

period as (

    select * from {{ ref('int_simulation_period') }}

),

rated as (

    select
        starting_workforce.employee_id,
        starting_workforce.annual_compensation as previous_compensation,
        period.period_start as raise_date,
        {% if var('cola_rate') is none -%}
        comp_levers.cola_rate as raise_rate
        {%- else -%}
        cast({{ var('cola_rate') }} as decimal(6, 4)) as raise_rate
        {%- endif %}
    from starting_workforce
    cross join period
    inner join comp_levers
        on
            starting_workforce.level_id = comp_levers.level_id
            and period.assumption_year = comp_levers.lever_year
    left join terminations
        on starting_workforce.employee_id = terminations.employee_id
    where
        terminations.employee_id is null
        or terminations.termination_date > period.period_start

)

select
    employee_id,
    raise_date,
    raise_rate,
    previous_compensation,
    {{ simulation_utils.money('previous_compensation * (1 + raise_rate)') }} as new_compensation
from rated
where raise_rate > 0
