{#- Keeps the warehouse busy for a moment. -#}
{% macro wait() %}
  {% if target.type == 'postgres' %} select pg_sleep({{ var('seconds') }})
  {% else %} select count(*) from range({{ (30000000 * var('seconds')) | int }}) t(i), range(3) u(j) where hash(i, j) % 1000003 = 7
  {% endif %}
{% endmacro %}
