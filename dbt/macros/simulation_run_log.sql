{% macro simulation_run_log_relation() %}
    {{- return(api.Relation.create(
        database=target.database, schema=target.schema, identifier='simulation_run_log'
    )) -}}
{% endmacro %}


{# on-run-start: the audit table of the runs, made when it is not there. #}
{% macro create_simulation_run_log() %}
    create table if not exists {{ simulation_run_log_relation() }} (
        invocation_id varchar,
        scenario_id varchar,
        simulation_year integer,
        command varchar,
        run_started_at timestamp,
        results_total integer,
        results_failed integer
    )
{% endmacro %}


{# on-run-end: a row for this run. #}
{% macro record_simulation_run(results) %}
    {%- if execute -%}
    {%- set failed = results | selectattr('status', 'in', ['error', 'fail', 'runtime error']) | list -%}
    insert into {{ simulation_run_log_relation() }} values (
        '{{ invocation_id }}',
        '{{ var("scenario_id") }}',
        {{ simulation_year() }},
        '{{ flags.WHICH }}',
        cast('{{ run_started_at.strftime("%Y-%m-%d %H:%M:%S") }}' as timestamp),
        {{ results | length }},
        {{ failed | length }}
    )
    {%- endif -%}
{% endmacro %}
