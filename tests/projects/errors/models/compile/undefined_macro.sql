select 1 as id
{% if execute %}
    , {{ annualise_salry('salary') }} as yearly
{% endif %}
