{% if execute %}
    {{ exceptions.raise_compiler_error("cola_rate must be between 0 and 1, got 7") }}
{% endif %}
select 1 as id
