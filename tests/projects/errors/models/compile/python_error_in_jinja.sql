{% if execute %}
select {{ 1 / 0 }} as id
{% endif %}
