{% if execute %}
    {{ log('before the gate', info=true) }}
    {% do run_query(wait_for_gate()) %}
    {{ log('behind the gate', info=true) }}
{% endif %}
select 1 as one
