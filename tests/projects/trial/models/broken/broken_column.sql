select persn from {{ ref('int_model_b') }}
