{# The simulated year as a number, also where it was given as text on the command line. #}
{% macro simulation_year() %}
    {{- return(var('simulation_year') | int) -}}
{% endmacro %}


{% macro is_start_year() %}
    {{- return(simulation_year() <= (var('start_year') | int)) -}}
{% endmacro %}


{# A date in the simulated year. #}
{% macro simulation_date(month=1, day=1, year_offset=0) -%}
    cast('{{ '%04d-%02d-%02d' % (simulation_year() + year_offset, month | int, day | int) }}' as date)
{%- endmacro %}
