{#- Keeps the warehouse busy for `seconds` and says so first. -#}
{% macro wait() %}
  {% if execute %}
    {% do log('working on ' ~ this.identifier, info=true) %}
    {% if target.type == 'postgres' %}
      {% do run_query('select pg_sleep(' ~ var('seconds') ~ ')') %}
    {% else %}
      {% set began = modules.datetime.datetime.now() %}
      {% for _ in range(2000) %}
        {% if (modules.datetime.datetime.now() - began).total_seconds() < (var('seconds') | float) %}
          {% do run_query('select count(*) from range(2000000) t(i), range(10) u(j) where hash(i, j) % 1000003 = 7') %}
        {% endif %}
      {% endfor %}
    {% endif %}
  {% endif %}
{% endmacro %}
