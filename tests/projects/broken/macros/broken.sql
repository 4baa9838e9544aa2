{# The given SQL; or, where the var `broken` names `what`, SQL that the warehouse refuses;
   or, where it names `what` with `_compile`, a compilation error. #}
{% macro may_fail(what, sql) %}
    {%- if what ~ '_compile' in var('broken') and execute -%}
        {{ exceptions.raise_compiler_error(what ~ ' was told to fail') }}
    {%- elif what in var('broken') -%}
        select no_such_column_of_{{ what }} from no_such_relation
    {%- else -%}
        {{ sql }}
    {%- endif -%}
{% endmacro %}

{% macro keep_outcome(results) %}
    {%- if results -%}
    insert into {{ target.schema }}.outcome values
    {% for result in results | sort(attribute='node.unique_id') -%}
        ('{{ invocation_id }}', '{{ result.node.unique_id }}', '{{ result.status }}', {{ result.failures if result.failures is not none else -1 }}){{ ',' if not loop.last }}
    {% endfor %}
    {%- else -%} select 1 as nothing {%- endif -%}
{% endmacro %}
