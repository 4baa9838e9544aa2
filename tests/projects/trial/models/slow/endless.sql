-- longer than anybody waits
{% if target.type == 'postgres' %}
select pg_sleep(600) as slept
{% else %}
select sum(hash(a.range + b.range) % 7) as total
from range(10000000) as a, range(10000000) as b
{% endif %}
