select a.simulation_year, b.cola_rate
from {{ ref('int_model_a') }} as a cross join {{ ref('int_model_b') }} as b
