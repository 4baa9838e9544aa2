-- longer than anybody waits
-- depends_on: {{ ref('int_model_a') }}
{% if target.type == 'postgres' %}
select 1 as total from pg_sleep(600)
{% else %}
select sum(hash(a.range + b.range) % 7) as total
from range(10000000) as a, range(10000000) as b
{% endif %}
