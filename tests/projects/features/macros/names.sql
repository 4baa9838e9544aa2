{% macro generate_schema_name(custom_schema_name, node) -%}
    {%- if custom_schema_name is none -%} {{ target.schema }}
    {%- else -%} {{ target.schema }}_{{ custom_schema_name | trim }}
    {%- endif -%}
{%- endmacro %}

{% macro generate_alias_name(custom_alias_name=none, node=none) -%}
    {%- if custom_alias_name -%} {{ custom_alias_name | trim }}
    {%- elif node.version -%} {{ node.name ~ '_version_' ~ node.version }}
    {%- else -%} {{ node.name }}
    {%- endif -%}
{%- endmacro %}

{% macro default__scaled(column) %}({{ column }} * {{ var('factor', 1) }})::decimal(12, 2){% endmacro %}
