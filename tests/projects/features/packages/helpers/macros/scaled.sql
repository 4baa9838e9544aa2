{% macro scaled(column) %}{{ return(adapter.dispatch('scaled', 'helpers')(column)) }}{% endmacro %}

{% macro default__scaled(column) %}{{ column }} * {{ var('factor') }}{% endmacro %}
