{% if execute %}
select * from {{ ref('stg_payroll') }}
{% else %}
select 1 as id
{% endif %}
