{% macro broken_operation() %}
    {% do run_query("select nothing_here from (select 1 as id) as t") %}
{% endmacro %}
