{#
    The workforce snapshot table as the years before this one left it, or none when no year has
    been simulated yet.

    The snapshot table is built downstream of the starting workforce, so that a ref() to it would
    close a cycle. The database is asked for the table instead.
#}
{% macro workforce_snapshot_relation() %}
    {%- set snapshot = adapter.get_relation(
        database=this.database, schema=this.schema, identifier='fct_workforce_snapshot'
    ) -%}
    {%- if snapshot is none and execute and flags.WHICH in ['run', 'build'] -%}
        {%- do exceptions.raise_compiler_error(
            'There is no workforce snapshot to start ' ~ simulation_year() ~ ' from: simulate '
            ~ (simulation_year() - 1) ~ ' first, or set start_year to ' ~ simulation_year() ~ '.'
        ) -%}
    {%- endif -%}
    {{- return(snapshot) -}}
{% endmacro %}
