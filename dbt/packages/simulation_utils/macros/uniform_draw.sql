{#
    A repeatable uniform draw in [0, 1): the first 32 bits of an md5 over the random seed, the
    simulated year, the purpose of the draw (salt) and the key. The same arguments give the same
    number on every adapter, in every run, whatever the order of the rows.
#}
{% macro uniform_draw(key_expr, salt) %}
    {%- set prefix = var('random_seed') ~ '|' ~ var('simulation_year') ~ '|' ~ salt ~ '|' -%}
    {%- set digest -%}
        md5('{{ prefix }}' || cast({{ key_expr }} as varchar))
    {%- endset -%}
    ({{ simulation_utils.hex_to_double('substr(' ~ digest ~ ', 1, 8)') }} / cast(4294967296 as double precision))
{%- endmacro %}


{# Eight hex digits as an unsigned number, in double precision. #}
{% macro hex_to_double(hex_expr) %}
    {{- return(adapter.dispatch('hex_to_double', 'simulation_utils')(hex_expr)) -}}
{% endmacro %}

{% macro default__hex_to_double(hex_expr) -%}
    cast(cast('0x' || {{ hex_expr }} as bigint) as double precision)
{%- endmacro %}

{% macro postgres__hex_to_double(hex_expr) -%}
    cast(cast(cast('x' || {{ hex_expr }} as bit(32)) as bigint) as double precision)
{%- endmacro %}


{# A repeatable date: start_expr plus 0 to days_expr - 1 days. #}
{% macro draw_date(key_expr, salt, start_expr, days_expr) -%}
    ({{ start_expr }} + cast(floor({{ simulation_utils.uniform_draw(key_expr, salt) }} * {{ days_expr }}) as integer))
{%- endmacro %}
