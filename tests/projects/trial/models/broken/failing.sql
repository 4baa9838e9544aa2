select person, salary - 60000 as salary from {{ ref('int_model_b') }}
