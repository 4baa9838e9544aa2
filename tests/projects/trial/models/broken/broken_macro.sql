{% if execute %}{{ exceptions.raise_compiler_error('the rates are not there') }}{% endif %}
select 1 as one
