{% macro audit_relation() %}{{ return(target.schema ~ '.run_audit') }}{% endmacro %}

{% macro create_audit() %}
    create table if not exists {{ audit_relation() }} (invocation varchar(64), what varchar(200), moment varchar(400), number integer, more varchar(2000))
{% endmacro %}

{# Roles belong to the whole server, so two runs may want the same one at the same moment. #}
{% macro create_reader() %}
    {% if target.type == 'postgres' %}
    do $$ begin create role parity_reader; exception when duplicate_object or unique_violation then null; end $$
    {% else %} select 1 as nothing {% endif %}
{% endmacro %}

{% macro create_rates() %}
    create table if not exists {{ target.schema }}.rates as select 1 as rate_id, cast('2025-01-01' as timestamp) as loaded_at
{% endmacro %}

{% macro audit(what, number) %}
    insert into {{ audit_relation() }} values ('{{ invocation_id }}', '{{ what }}', '{{ run_started_at.isoformat() }}', {{ number }}, '{{ flags.FULL_REFRESH }}')
{% endmacro %}

{% macro audit_results(results, schemas, database_schemas) %}
    {% if execute %}
    insert into {{ audit_relation() }} values
    {% for result in results | sort(attribute='node.unique_id') %}
        ('{{ invocation_id }}', '{{ result.node.unique_id }}', '{{ result.status }}', {{ result.failures if result.failures is not none else -1 }},
         '{{ (result.message or '') | replace("'", '') | truncate(200) }} {{ result.node.relation_name | default('', true) | replace(target.database, 'db') | replace('"', '') }} {{ result.thread_id is string }}'),
    {% endfor %}
        ('{{ invocation_id }}', 'schemas', '{{ schemas | sort | join(',') }}', {{ results | length }}, '{{ database_schemas | length }}')
    {% endif %}
{% endmacro %}

{% macro count_of(relation) %}
    {% if not execute %}{{ return(0) }}{% endif %}
    {% set answer = run_query('select count(*) from ' ~ relation) %}
    {{ return(answer.columns[0].values()[0]) }}
{% endmacro %}

{% macro add_order(order_id, amount) %}
    {% do run_query("insert into " ~ ref('raw_orders') ~ " values (" ~ order_id ~ ", 1, date '2025-01-09', " ~ amount ~ ", 'new')") %}
    {{ log('added order ' ~ order_id, info=true) }}
    {{ print('printed by an operation') }}
{% endmacro %}

{% test at_most(model, column_name, most) %}
    select {{ column_name }} from {{ model }} where {{ column_name }} > {{ most }}
{% endtest %}
