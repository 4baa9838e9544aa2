{% if execute %}
{% set rows = run_query("select max(anual) from " ~ ref('employees')) %}
{% endif %}
select 1 as id from {{ ref('employees') }}
