{# The band a number falls in: bands is a list of [upper bound (exclusive), label]; none is no bound. #}
{% macro band(expr, bands) -%}
    case
        {%- for upper_bound, label in bands %}
        {%- if upper_bound is not none %}
        when {{ expr }} < {{ upper_bound }} then '{{ label }}'
        {%- else %}
        else '{{ label }}'
        {%- endif %}
        {%- endfor %}
    end
{%- endmacro %}

{% macro age_band(expr) -%}
    {{ simulation_utils.band(expr, [
        [25, '<25'], [35, '25-34'], [45, '35-44'], [55, '45-54'], [65, '55-64'], [none, '65+']
    ]) }}
{%- endmacro %}

{% macro tenure_band(expr) -%}
    {{ simulation_utils.band(expr, [
        [1, '<1'], [3, '1-2'], [5, '3-4'], [10, '5-9'], [none, '10+']
    ]) }}
{%- endmacro %}

{% macro time_in_level_band(expr) -%}
    {{ simulation_utils.band(expr, [
        [1, '<1'], [3, '1-2'], [5, '3-4'], [none, '5+']
    ]) }}
{%- endmacro %}
