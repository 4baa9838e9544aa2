{# Waits in the warehouse. #}
{% macro pause(milliseconds) %}
    {% if target.type == 'postgres' %}
        select pg_sleep({{ milliseconds }} / 1000.0)
    {% else %}
        select sleep_ms({{ milliseconds }})
    {% endif %}
{% endmacro %}

{# Waits until a test opens the gate: writes to a named pipe, or lets go of an advisory lock. #}
{% macro wait_for_gate() %}
    {% if target.type == 'postgres' %}
        select pg_advisory_lock(42), pg_advisory_unlock(42)
    {% else %}
        select count(*) from read_csv('{{ var("gate") }}', columns={'word': 'varchar'}, header=false, auto_detect=false)
    {% endif %}
{% endmacro %}

{% macro say(words, times=1) %}
    {% for time in range(times) %}{{ log(words ~ ' ' ~ time, info=true) }}{% endfor %}
{% endmacro %}

{% macro fail(words) %}
    {{ exceptions.raise_compiler_error(words) }}
{% endmacro %}
