-- says something, waits, says something …
{% if execute %}
    {% for step in range(var('steps') | int) %}
        {{ log('step ' ~ step ~ ' of the talker', info=true) }}
        {% do run_query(pause(var('pause') | int)) %}
    {% endfor %}
{% endif %}
select {{ var('steps') | int }} as steps
