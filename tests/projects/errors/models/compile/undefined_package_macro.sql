select 1 as id
{% if execute %}
    , {{ dbt_utils.generate_surrogate_key(['id']) }} as key
{% endif %}
